"""Small pictures of things, to train on in a second."""

from pathlib import Path

import numpy as np
from PIL import Image

TINY = ["data.loader.classes_per_batch=4", "data.loader.images_per_class=2", "model.head.embedding_dim=8"]


def write_photographs(root: Path, classes: int = 8, pictures: int = 4) -> Path:
    """Pictures of several sizes and formats: train and test, half of the classes of each."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        folder = root / ("test" if number % 2 else "train") / f"thing {number}"
        folder.mkdir(parents=True)
        for picture in range(pictures):
            pixels = rng.integers(0, 256, (40 + 5 * picture, 50, 3)) // 4 + 24 * (number % 8)
            suffix = "jpg" if picture % 2 else "png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{picture}.{suffix}")
    return root
