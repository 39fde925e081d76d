"""What people read: tables and figures folded from `result.json` files."""
