"""Data: tables of labeled items, how they are drawn into batches, decoded, transformed and kept.

May import nothing of the project but what all rooms stand on.
"""
