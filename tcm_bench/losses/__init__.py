"""Losses: one file each, a pure function first and a thin module after it."""
