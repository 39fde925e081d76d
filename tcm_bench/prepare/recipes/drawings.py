"""Labeled pictures out of pinned packages, and the class-disjoint split of them."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tcm_bench.packages import Package


@dataclass(frozen=True)
class Drawing:
    """One labeled image and where it comes from.

    Attributes:
        pixels: uint8 ``(side, side, 3)``, dark on white where the source has no background.
        source: Who drew it: the package, the icon set or the typeface.
    """

    pixels: np.ndarray
    source: str


Drawings = dict[str, list[Drawing]]


@dataclass(frozen=True)
class Recipe:
    """How one set is built.

    Attributes:
        name: The set's folder below ``data/``.
        title: Heading of its NOTICE.
        packages: Where the images come from.
        collect: Maps the fetched archives, by package name, to the drawings of each class.
        method: What was done, a paragraph of the NOTICE.
        bundled: Whether the set is tracked with the code, or made by whoever wants it.
        distinct: Whether pictures that cannot be told apart are dropped.
        min_images: Classes left with fewer pictures by that are dropped too.
        credits: License and credit of each source, where its package holds several.
    """

    name: str
    title: str
    packages: tuple[Package, ...]
    collect: Callable[[Mapping[str, Path]], Drawings]
    method: str
    bundled: bool = True
    distinct: bool = True
    min_images: int = 2
    credits: Mapping[str, str] = field(default_factory=dict)


def distinct(drawings: Mapping[str, Sequence[Drawing]], min_images: int) -> Drawings:
    """Drop pictures that cannot be told apart, then classes left with fewer than ``min_images``.

    Within a class the first of equal pictures stays; a picture found in several classes is a contradiction
    and leaves all of them.
    """
    pictures: dict[str, dict[bytes, Drawing]] = {}
    for name, group in sorted(drawings.items()):
        pictures[name] = {}
        for drawing in group:
            pictures[name].setdefault(hashlib.sha256(drawing.pixels.tobytes()).digest(), drawing)
    classes_with = Counter(key for unique in pictures.values() for key in unique)
    kept: Drawings = {}
    for name, unique in pictures.items():
        left = [drawing for key, drawing in unique.items() if classes_with[key] == 1]
        if len(left) >= min_images:
            kept[name] = left
    return kept


def shuffle_key(set_name: str, name: str) -> bytes:
    """What names are sorted by for a seeded shuffle that no library can change: the hash of ``<set>/<name>``."""
    return hashlib.sha256(f"{set_name}/{name}".encode()).digest()


def halves(set_name: str, classes: Sequence[str]) -> dict[str, list[str]]:
    """The class-disjoint split: the half of the classes whose hashes come first is for training.

    The hash of ``<set>/<class>`` serves as a seeded shuffle that no library can change. The larger half of an
    odd number is for testing.
    """
    shuffled = sorted(classes, key=lambda name: shuffle_key(set_name, name))
    middle = len(shuffled) // 2
    return {"train": sorted(shuffled[:middle]), "test": sorted(shuffled[middle:])}
