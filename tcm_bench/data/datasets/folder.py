"""Anyone's own images: one folder for each class."""

import os
from dataclasses import replace
from pathlib import Path

from tcm_bench.data.datasets.listing import Counts, Listing, class_disjoint_splits
from tcm_bench.data.table import Splits

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def folder(root: str | Path, counts: Counts | None = None, sha256: str | None = None) -> Splits:
    """Classes of ``root/train`` to learn from and of ``root/test`` to evaluate on.

    Without these two folders, the folders in ``root`` itself are the classes, and every second one in the
    order of their names is for testing. Images may lie at any depth in a class's folder; hidden files and
    files that are no images are passed over.

    Args:
        root: Holds ``train/<class>/*.jpg`` and ``test/<class>/*.jpg``, or ``<class>/*.jpg``.
        sha256: Hash of all that lies in ``root``; the fingerprint. Without it the fingerprint covers names only.
        counts: See :func:`~tcm_bench.data.datasets.listing.class_disjoint_splits`.

    Raises:
        ValueError: If there are fewer than two classes for a side, a class is in both splits, or the counts differ.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: set data.root to one that holds a folder of images per class")
    if (root / "train").is_dir() and (root / "test").is_dir():
        train, test = class_folders(root / "train", 2), class_folders(root / "test", 2)
    else:
        both = class_folders(root, 4)
        train, test = both[0::2], both[1::2]
    names = [path.name for path in train + test]
    listings = (
        _listing(root, train, first_number=0),
        _listing(root, test, first_number=len(train)),
    )
    splits = class_disjoint_splits("a folder of images per class", root, *listings, dict(enumerate(names)), counts)
    return splits if sha256 is None else replace(splits, fingerprint=sha256)


def class_folders(parent: Path, needed: int = 0) -> list[Path]:
    """Folders in ``parent`` with an image in them, by name.

    Raises:
        ValueError: If there are fewer than are needed.
    """
    folders = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    classes = [path for path in folders if images_below(path)]
    if len(classes) < needed:
        loose = sum(path.is_file() and _is_image(path.name) for path in parent.iterdir())
        names = f" ({', '.join(path.name for path in classes)})" if classes else ""
        beside = f", and {loose} images outside of any" if loose else ""
        side = "" if needed == 2 else ", half to learn from and half to evaluate on, or train/ and test/ with two each"
        raise ValueError(
            f"{parent} has {len(classes)} folder(s) of images{names}{beside}, where at least {needed} are needed: "
            f"one for each class{side}"
        )
    return classes


def _listing(root: Path, folders: list[Path], first_number: int) -> Listing:
    """The images of some classes, numbered in their order."""
    rows = [
        (os.path.relpath(image, root).replace(os.sep, "/"), number)
        for number, path in enumerate(folders, start=first_number)
        for image in images_below(path)
    ]
    return Listing([path for path, _ in rows], [number for _, number in rows])


def images_below(path: Path) -> list[str]:
    """Paths of the images below a folder, sorted."""
    return sorted(f"{folder}/{name}" for folder, _, names in os.walk(path) for name in names if _is_image(name))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
