"""From archives and links to datasets on disk that are proven to be the benchmarks."""
