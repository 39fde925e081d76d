"""Threshold-consistent deep metric learning: the TCM loss, the OPIS metric, and the experiments that check them.

One room per subject; ARCHITECTURE.md shows how they hang together. Beside the rooms lie what all of them stand on:
`files`, `process`, `progress`, `packages`, `unit_norm`, `multiplication`, and the hook that is installed here,
before anything imports torchvision.
"""

from tcm_bench import torchvision_schemas

torchvision_schemas.install()
