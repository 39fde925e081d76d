"""Readers: each turns what lies on disk (a benchmark, a folder, a list, vectors) into the two tables of a split.

A new data set is a file here and one in `conf/data`.
"""
