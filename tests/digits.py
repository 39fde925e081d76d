"""A set of small pictures as `tcm-bench data prepare` makes them: an archive for each side, a strip for each class."""

import io
import zipfile

import numpy as np
from PIL import Image


def write_digits(root, sizes, side_px=4):
    """Images that say by their gray what they are: 20 times the class, which is a digit, and their number in it."""
    for side, classes in sizes.items():
        with zipfile.ZipFile(root / f"{side}.zip", "w") as archive:
            for name, count in classes.items():
                stream = io.BytesIO()
                grays = 20 * int(name) + np.arange(count, dtype=np.uint8)
                Image.fromarray(np.repeat(grays, side_px**2).reshape(-1, side_px)).save(stream, "png")
                archive.writestr(f"{name}.png", stream.getvalue())
    return root
