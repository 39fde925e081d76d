"""What an embedded set is made from: pinned packages in, labelled images out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Package:
    """One archive of a package manager, pinned by version and content.

    Attributes:
        manager: Who delivers it: ``npm`` (npm pack) or ``apt`` (apt-get download).
        name: The package's name there.
        version: The exact version.
        sha256: Hash of the archive.
        license: SPDX name, or the words of the package where SPDX has none.
        credit: Whom the licence wants named.
    """

    manager: Literal["npm", "apt"]
    name: str
    version: str
    sha256: str
    license: str
    credit: str


@dataclass(frozen=True)
class Drawing:
    """One labelled image and where it comes from.

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
        distinct: Whether pictures that cannot be told apart are dropped.
        min_images: Classes left with fewer pictures by that are dropped too.
        credits: Licence and credit of each source, where its package holds several.
    """

    name: str
    title: str
    packages: tuple[Package, ...]
    collect: Callable[[Mapping[str, Path]], Drawings]
    method: str
    distinct: bool = True
    min_images: int = 2
    credits: Mapping[str, str] = field(default_factory=dict)
