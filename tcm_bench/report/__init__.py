"""What people read: tables and figures folded from the rows of runs, and evaluations made on demand.

May import `results`, `evaluation` and the readers of vectors.
"""
