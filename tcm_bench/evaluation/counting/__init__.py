"""All pairs of a set, counted exactly for little more than one single-precision product.

`scan.PairScan` is the face; nobody outside `evaluation` imports from here.
"""
