"""Losses: one file each, a pure function first and a thin module after it; `objective` adds TCM to any base loss.

May import nothing of the project but `unit_norm`.
"""
