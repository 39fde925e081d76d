"""Icons: one idea drawn in the icon sets of many designers; common ideas far more often than rare ones."""

from collections.abc import Mapping
from pathlib import Path

from tcm_bench.prepare.recipes.drawings import Drawings, Recipe
from tcm_bench.prepare.recipes.icons import PACKAGE, SIDE, ideas

MIN_SETS = 3

# One set per designer, chosen for being drawn differently: thin, solid, two-tone, colored, pixel, freehand.
SETS = {
    "tabler": ("MIT", "Paweł Kuna, Tabler Icons"),
    "solar": ("CC-BY-4.0", "480 Design, Solar"),
    "uil": ("Apache-2.0", "Iconscout, Unicons"),
    "pixelarticons": ("MIT", "Gerrit Halfmann, Pixelarticons"),
    "streamline-freehand": ("CC-BY-4.0", "Streamline, Freehand free icons"),
    "icon-park": ("Apache-2.0", "ByteDance, IconPark"),
    "carbon": ("Apache-2.0", "IBM, Carbon"),
    "ion": ("MIT", "Ben Sperry, IonIcons"),
    "ph": ("MIT", "Phosphor Icons, Phosphor"),
    "fluent": ("MIT", "Microsoft Corporation, Fluent UI System Icons"),
    "clarity": ("MIT", "VMware, Clarity"),
    "dinkie-icons": ("MIT", "atelierAnchor, Dinkie Icons"),
    "pepicons-print": ("CC-BY-4.0", "CyCraft, Pepicons Print"),
    "fa7-solid": ("CC-BY-4.0", "Dave Gandy, Font Awesome 7 Solid"),
    "flat-color-icons": ("MIT", "Icons8, Flat Color Icons"),
    "temaki": ("CC0-1.0", "Bryan Housel, Temaki"),
    "marketeq": ("MIT", "Marketeq, Marketeq"),
}


def collect(archives: Mapping[str, Path]) -> Drawings:
    """The ideas of these sets."""
    return ideas(archives[PACKAGE.name], SETS, MIN_SETS)


RECIPE = Recipe(
    name="icons",
    title="Icons: one idea in the sets of many designers",
    packages=(PACKAGE,),
    collect=collect,
    min_images=MIN_SETS,
    credits={name: f"{license_name}: {credit}" for name, (license_name, credit) in SETS.items()},
    method=f"""\
One class per idea, one image per icon set. The idea is the icon's name without the words for style and size at its
end; ideas drawn in fewer than {MIN_SETS} of the {len(SETS)} sets were left out. The number of images per class is as
found: a few ideas are in nearly every set, most in three or four. Sets of brands, flags and emoji were not taken, nor
sets under a share-alike, non-commercial or GPL license. Names are not always one concept (a stamp is postage or
rubber): real label noise. Drawn at {SIDE} px, near-black on white; some sets have colors of their own.""",
)
