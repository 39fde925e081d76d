"""Icons: one idea drawn in the icon sets of many designers."""

from collections.abc import Mapping
from pathlib import Path

from tcm_bench.packages import fetch
from tcm_bench.prepare.recipes.drawings import Drawings, Recipe, distinct, shuffle_key
from tcm_bench.prepare.recipes.icons import PACKAGE, SIDE, ideas, permissive_sets

NAME = "icons"
CLASSES, IMAGES = 240, 24


def collect(archives: Mapping[str, Path]) -> Drawings:
    """A fixed pick of the ideas with enough drawings that can be told apart, and of these drawings."""
    archive = archives[PACKAGE.name]
    drawn = distinct(ideas(archive, permissive_sets(archive), IMAGES), IMAGES)
    picked = sorted(drawn, key=lambda name: shuffle_key(NAME, name))[:CLASSES]
    return {
        name: sorted(drawn[name], key=lambda drawing: shuffle_key(f"{NAME}/{name}", drawing.source))[:IMAGES]
        for name in sorted(picked)
    }


def recipe(downloads: Path) -> Recipe:
    """The recipe, with the credits that the package states for its sets."""
    return Recipe(
        name=NAME,
        title=f"Icons: one idea in the sets of {IMAGES} designers",
        packages=(PACKAGE,),
        collect=collect,
        min_images=IMAGES,
        credits=permissive_sets(fetch(PACKAGE, downloads)),
        method=f"""\
One class per idea, one image per icon set. The idea is the icon's name without the words for style and size at its
end. {CLASSES} of the ideas with at least {IMAGES} drawings that can be told apart, and {IMAGES} drawings of each, were
picked by the SHA-256 of their names. Sets of brands, flags and emoji were not taken, nor sets under a share-alike,
non-commercial or GPL license. Names are not always one concept (a stamp is postage or rubber): real label noise. Drawn
at {SIDE} px, near-black on white; some sets have colors of their own.""",
    )
