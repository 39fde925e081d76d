"""From archives and links to data sets on disk that are proven to be the benchmarks.

May import `data`; nothing imports it but the command line.
"""
