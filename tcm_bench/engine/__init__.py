"""Training: the Lightning module and its callbacks. No formula lives here."""
