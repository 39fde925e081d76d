"""Embedding networks: backbone, pooling, head, and the weights they start from.

May import nothing of the project but what all rooms stand on.
"""
