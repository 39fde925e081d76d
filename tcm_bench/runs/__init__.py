"""The life of a run: composed, checked, named, built, trained, measured, written down; and sweeps of them.

The only room that knows Hydra. May import every other room but `cli` and `prepare`.
"""
