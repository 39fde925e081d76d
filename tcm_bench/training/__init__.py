"""Training: the Lightning module, its callbacks, schedules and the W&B logger. No formula lives here.

May import `data`, `evaluation`, `losses` and `results`, but no `models`: networks come in by configuration.
"""
