"""Emoji: one picture drawn by five or six artists."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recipe import Drawing, Drawings, Package, Recipe
from svg import draw, icon_set

SIDE = 64
MIN_ARTISTS = 5

PACKAGES = tuple(
    Package("npm", f"@iconify-json/{name}", version, sha256, license_name, credit)
    for name, version, license_name, credit, sha256 in (
        (
            "noto",
            "1.2.9",
            "Apache-2.0",
            "Google, Noto Emoji",
            "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
        ),
        (
            "noto-v1",
            "1.2.5",
            "Apache-2.0",
            "Google, Noto Emoji, first version",
            "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
        ),
        (
            "twemoji",
            "1.2.5",
            "CC-BY-4.0",
            "Twitter, Inc and other contributors, Twemoji",
            "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
        ),
        (
            "fluent-emoji-flat",
            "1.2.6",
            "MIT",
            "Microsoft Corporation, Fluent Emoji",
            "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
        ),
        (
            "emojione",
            "1.2.3",
            "CC-BY-4.0",
            "Emoji One, version 2",
            "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
        ),
        (
            "fxemoji",
            "1.2.2",
            "Apache-2.0",
            "Mozilla, Firefox OS Emoji",
            "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
        ),
    )
)
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


def collect(archives: Mapping[str, Path]) -> Drawings:
    """One drawing per artist and emoji, skin tones left out."""
    sets = {name: icon_set(path, "package/icons.json") for name, path in archives.items()}
    former = synonyms(sets.values())
    current = sets["@iconify-json/noto"]["icons"]
    chosen: dict[str, dict[str, str]] = {}
    for artist, icons in sets.items():
        for icon in sorted(icons["icons"]):
            if SKIN_TONE.search(icon) or icons["icons"][icon].get("hidden"):
                continue
            by_artist = chosen.setdefault(current_name(icon, current, former), {})
            by_artist.setdefault(artist, icon)
    return {
        name: [Drawing(draw(sets[artist], icon, SIDE), artist.rpartition("/")[2]) for artist, icon in by_artist.items()]
        for name, by_artist in chosen.items()
        if len(by_artist) >= MIN_ARTISTS
    }


RECIPE = Recipe(
    name="emoji",
    title="Emoji: one picture by five or six artists",
    packages=PACKAGES,
    collect=collect,
    min_images=MIN_ARTISTS - 1,
    method=f"""\
One class per emoji, one image per artist. Names follow the first set; a set's former names count as the current
one. Skin-tone variants were left out, and so were emoji drawn by fewer than {MIN_ARTISTS} of the six. Only sets
without a share-alike clause were taken, and of Fluent's renderings of one geometry only the flat one. Drawn at
{SIDE} px on white. Both halves of the split hold all artists: only the emoji are new at test time.""",
)
