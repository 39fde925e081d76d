"""Icons: one idea drawn in the icon sets of many designers; common ideas far more often than rare ones."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tcm_bench.packages import Package, fetch, files
from tcm_bench.prepare.recipes.drawings import Drawing, Drawings, Recipe
from tcm_bench.prepare.recipes.strips import build
from tcm_bench.prepare.recipes.svg import draw, icon_sets

SIDE = 48
MIN_SETS = 8
LICENSES = ("MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-3.0", "CC0-1.0", "OFL-1.1", "ISC", "BSD-3-Clause", "Unlicense")
CATEGORIES_LEFT_OUT = ("Emoji", "Flags / Maps", "Logos")  # no ideas, but things with a look of their own

PACKAGE = Package(
    manager="npm",
    name="@iconify/json",
    version="2.2.535",
    sha256="1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91",
    license="that of each set, above",
    credit="Iconify, who collected the sets",
)
STYLES = re.compile(
    r"(?<=.)-(\d+|alt|bold|broken|bulk|color|duotone|fill|filled|flat|glyph|light|line|linear|mini|o|outline|outlined|"
    r"regular|round|rounded|sharp|small|solid|stroke|thin|tone|two|twotone)$"
)


def idea(icon: str) -> str:
    """The icon's name without the words for its style and size at the end."""
    while (shorter := STYLES.sub("", icon)) != icon:
        icon = shorter
    return icon


def ideas(archive: Path, names: Collection[str], min_sets: int) -> Drawings:
    """One drawing per icon set and idea; of a set's variants the one with the shortest name.

    Args:
        archive: The package with all sets.
        names: The sets to take, the order in which a class's drawings stand.
        min_sets: Ideas drawn in fewer are left out.
    """
    found = {name: icons for name, icons in icon_sets(archive, "package/json/*.json") if name in names}
    sets = {name: found[name] for name in names}
    chosen: dict[str, dict[str, str]] = {}
    for name, icons in sets.items():
        for icon in sorted(icons["icons"], key=lambda icon: (len(icon), icon)):
            if not icons["icons"][icon].get("hidden"):
                chosen.setdefault(idea(icon), {}).setdefault(name, icon)
    return {
        name: [Drawing(draw(sets[source], icon, SIDE), source) for source, icon in by_set.items()]
        for name, by_set in chosen.items()
        if len(by_set) >= min_sets
    }


def permissive_sets(archive: Path) -> dict[str, str]:
    """Names of the sets that may be used freely, each with its license and credit."""
    ((_, content),) = files(archive, "package/collections.json")
    sets: dict[str, dict[str, Any]] = json.loads(content)
    return {
        name: f"{facts['license']['spdx']}: {facts['author']['name']}, {facts['name']}"
        for name, facts in sorted(sets.items())
        if facts["license"].get("spdx") in LICENSES
        and facts.get("category") not in CATEGORIES_LEFT_OUT
        and "emoji" not in name  # one such set is in no category
    }


def collect(archives: Mapping[str, Path]) -> Drawings:
    """The ideas of all permissive sets."""
    archive = archives[PACKAGE.name]
    return ideas(archive, permissive_sets(archive), MIN_SETS)


RECIPE = Recipe(
    name="icons-full",
    title="Icons: one idea in the sets of six to 126 designers",
    packages=(PACKAGE,),
    collect=collect,
    bundled=False,
    min_images=MIN_SETS - 2,
    method=f"""\
One class per idea, one image per icon set. The idea is the icon's name without the words for style and size at its
end; ideas drawn in fewer than {MIN_SETS} sets were left out. Sets of brands, flags and emoji were not taken, nor sets
under a share-alike, non-commercial or copyleft license. Names are not always one concept (a stamp is postage or
rubber): real label noise. Drawn at {SIDE} px, near-black on white; some sets have colors of their own.""",
)


def prepare_icons(staging: Path, downloads: Path) -> None:
    """Make icons-full in a folder, its package fetched to another."""
    build(replace(RECIPE, credits=permissive_sets(fetch(PACKAGE, downloads))), staging, downloads)
