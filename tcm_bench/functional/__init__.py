"""Pure functions on tensors: pairs, retrieval, thresholds, statistics.

Nothing here knows of configuration, files or training.
"""
