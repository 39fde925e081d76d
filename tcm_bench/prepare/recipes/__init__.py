"""Sets that are made from packages: which drawings and photographs make a class, and how they are stored.

`scripts/bundled_data` makes the tracked ones by these recipes.
"""
