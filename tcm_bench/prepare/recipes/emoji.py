"""Emoji: one picture drawn by many artists."""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tcm_bench.packages import Package
from tcm_bench.prepare.recipes.drawings import Drawing, Drawings, Recipe
from tcm_bench.prepare.recipes.svg import draw, icon_sets

SIDE = 64
MIN_DRAWINGS = 6

PACKAGES = tuple(
    Package("npm", f"@iconify-json/{name}", version, sha256, license_name, credit)
    for name, version, license_name, credit, sha256 in (
        ("noto", "1.2.9", "Apache-2.0", "Google, Noto Emoji",
         "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
        ("noto-v1", "1.2.5", "Apache-2.0", "Google, Noto Emoji, first version",
         "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
        ("twemoji", "1.2.5", "CC-BY-4.0", "Twitter, Inc and other contributors, Twemoji",
         "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
        ("fluent-emoji-flat", "1.2.6", "MIT", "Microsoft Corporation, Fluent Emoji",
         "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175"),
        ("emojione", "1.2.3", "CC-BY-4.0", "Emoji One, version 2",
         "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
        ("fxemoji", "1.2.2", "Apache-2.0", "Mozilla, Firefox OS Emoji",
         "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
        ("fluent-emoji", "1.2.7", "MIT", "Microsoft Corporation, Fluent Emoji",
         "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"),
        ("fluent-emoji-high-contrast", "1.2.6", "MIT", "Microsoft Corporation, Fluent Emoji",
         "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0"),
        ("openmoji", "1.2.29", "CC-BY-SA-4.0", "OpenMoji",
         "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"),
        ("emojione-v1", "1.2.3", "CC-BY-SA-4.0", "Emoji One, version 1",
         "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3"),
        ("emojione-monotone", "1.2.1", "CC-BY-4.0", "Emoji One, version 2, black and white",
         "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e"),
    )
)  # fmt: skip
SKIN_TONE = re.compile(r"skin-tone|-tone[1-5]\b")


def synonyms(sets: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Former names of emoji, as the sets themselves list them; a mirrored or turned icon is no synonym."""
    names: dict[str, str] = {}
    for icons in sets:
        for alias, target in icons.get("aliases", {}).items():
            if target.keys() == {"parent"}:
                names.setdefault(alias, target["parent"])
    return names


def current_name(name: str, current: Mapping[str, Any], former: Mapping[str, str]) -> str:
    """Follow former names until a current one, or none further, is reached."""
    passed = {name}
    while name not in current and former.get(name, name) not in passed:
        name = former[name]
        passed.add(name)
    return name


def emoji(archives: Mapping[str, Path], min_drawings: int) -> Drawings:
    """One drawing per artist and emoji, skin tones left out.

    Args:
        archives: The artists' packages by name; emoji go by the names that Noto gives them.
        min_drawings: Emoji with fewer are left out.
    """
    sets = dict(icons for archive in archives.values() for icons in icon_sets(archive))
    former = synonyms(sets.values())
    current = sets["noto"]["icons"]
    chosen: dict[str, dict[str, str]] = {}
    for artist, icons in sets.items():
        for icon in sorted(icons["icons"]):
            if SKIN_TONE.search(icon) or icons["icons"][icon].get("hidden"):
                continue
            by_artist = chosen.setdefault(current_name(icon, current, former), {})
            by_artist.setdefault(artist, icon)
    return {
        name: [Drawing(draw(sets[artist], icon, SIDE), artist) for artist, icon in by_artist.items()]
        for name, by_artist in chosen.items()
        if len(by_artist) >= min_drawings
    }


RECIPE = Recipe(
    name="emoji-full",
    title="Emoji: one picture in five to eleven drawings",
    packages=PACKAGES,
    collect=partial(emoji, min_drawings=MIN_DRAWINGS),
    bundled=False,
    min_images=MIN_DRAWINGS - 1,
    method=f"""\
One class per emoji, one image per set. Names follow the first set; a set's former names count as the current one.
Skin-tone variants were left out, and so were emoji in fewer than {MIN_DRAWINGS} of the sets. Three sets show one
geometry (Fluent), and two more another (Emoji One, version 2): to find the nearest picture is partly to find the same
artist. Two sets have a share-alike clause. Drawn at {SIDE} px on white. Both halves of the split hold all sets: only
the emoji are new at test time.""",
)
