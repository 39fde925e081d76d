"""Threshold-consistent deep metric learning: the TCM loss, the OPIS metric, and the experiments that check them."""
