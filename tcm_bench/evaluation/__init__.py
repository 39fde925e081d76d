"""What embeddings are worth: R@k, OPIS, 10%-OPIS and their errors over classes, exactly and over all pairs.

`evaluate` is the face: embeddings and labels in, an evaluation out; `metric` is the same for a trainer. Knows nothing
of configuration, training or data sets; may import `results` for the names of files.
"""
