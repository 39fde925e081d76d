"""Embedding networks: backbone, pooling, head, and the weights they start from."""
