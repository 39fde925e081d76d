"""Sets of small pictures, read straight from two archives: those tracked with the code, and larger ones made on demand.

Each set lies in a folder of its own: ``train.zip`` and ``test.zip`` hold one lossless image per class, named after it,
in which the class's pictures stand one below the other. The halves share no class.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from tcm_bench.data.datasets.listing import Counts
from tcm_bench.data.table import ImageArray, Splits


def bundled_splits(
    root: str | Path,
    sha256: Mapping[str, str] | None = None,
    images_per_class: int | None = None,
    counts: Counts | None = None,
) -> Splits:
    """Read one set into memory; nothing is extracted to disk.

    Args:
        root: Folder with ``train.zip`` and ``test.zip``.
        sha256: Hash of each archive, by ``train`` and ``test``; ``None``: whatever they hold.
        images_per_class: Take only the first so many pictures of a class, at least 2; ``None`` takes all.
        counts: ``{"train": (classes, images), "test": (classes, images)}`` as they must be; ``None``: not checked.

    Returns:
        Both halves as :class:`~tcm_bench.data.table.ImageArray`, classes in the order of their names.

    Raises:
        ValueError: If the folder or an archive is missing, an archive is not the stated one, or the counts differ.
    """
    root = Path(root)
    if images_per_class is not None and images_per_class < 2:
        raise ValueError(f"images_per_class must be at least 2, to form a pair, or null, got {images_per_class}")
    if not root.is_dir():
        raise ValueError(
            f"data.root names {root}, which is not a folder; the bundled sets lie in the project's data/ folder, "
            "others are made there by `tcm-bench data prepare`"
        )
    archives = {
        half: verified(root / f"{half}.zip", None if sha256 is None else sha256[half]) for half in ("train", "test")
    }
    hashes = {half: hashlib.sha256(archive).hexdigest() for half, archive in archives.items()}
    subset = f"{hashes['train']} {hashes['test']} {images_per_class}"
    try:
        tables = {half: read_table(archive, images_per_class) for half, archive in archives.items()}
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"an archive in {root} is damaged ({error}); make it anew") from error
    for half, table in tables.items():
        found = (table.num_classes, len(table))
        if counts is not None and found != tuple(counts[half]):
            raise ValueError(
                f"{root / half}.zip holds {found[1]:,} images of {found[0]:,} classes where {counts[half][1]:,} of "
                f"{counts[half][0]:,} are expected: it was made with other libraries than those of constraints.txt"
            )
    return Splits(
        train=tables["train"],
        test=tables["test"],
        fingerprint=hashlib.sha256(subset.encode()).hexdigest(),
    )


def verified(path: Path, sha256: str | None) -> bytes:
    """The file's content, if it is the stated one, or if none is stated.

    Raises:
        ValueError: If the file is missing, cut short or changed.
    """
    name = path.parent.name
    remedy = (
        f"restore it with `git checkout -- data/{name}` or rebuild it with "
        f"`python scripts/bundled_data/build.py {name}`"
    )
    if sha256 is None:
        remedy = "make it with `tcm-bench data prepare`"
    if not path.is_file():
        raise ValueError(f"{path} is missing; {remedy}")
    content = path.read_bytes()
    if sha256 is None:
        return content
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        fault = "damaged or replaced" if zipfile.is_zipfile(io.BytesIO(content)) else "cut short or no zip archive"
        raise ValueError(
            f"{path} is {fault}: its sha256 starts with {found[:12]} in place of the stated {sha256[:12]}; {remedy}"
        )
    return content


def read_table(archive: bytes, images_per_class: int | None) -> ImageArray:
    """The pictures of an archive of strips, class after class.

    Args:
        archive: A zip whose entries are images, each a column of squares as wide as the image.
        images_per_class: How many squares to take from the top of each; ``None`` takes all.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        entries = {Path(entry).stem: entry for entry in file.namelist()}
        strips = {name: decode(file.read(entries[name])) for name in sorted(entries)}
    groups = [strip.reshape(-1, strip.shape[1], strip.shape[1], 3)[:images_per_class] for strip in strips.values()]
    return ImageArray(
        labels=np.repeat(np.arange(len(groups)), [len(group) for group in groups]),
        class_names=tuple(strips),
        images=np.concatenate(groups),
    )


def decode(image: bytes) -> np.ndarray:
    """Pixels of an encoded image, uint8 ``(height, width, 3)``."""
    with Image.open(io.BytesIO(image)) as opened:
        return np.asarray(opened.convert("RGB"))
