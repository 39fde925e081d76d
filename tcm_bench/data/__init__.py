"""Data: tables of labelled items, their splits, and how they reach the network."""
