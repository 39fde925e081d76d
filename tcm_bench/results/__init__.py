"""What a run leaves: its row, its label among others, how far it is. No torch, no Hydra.

The one record that reports, sweeps and training share; may import nothing of the project but `files` and `process`.
"""
