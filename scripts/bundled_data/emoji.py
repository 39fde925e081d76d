"""Emoji: one picture drawn by five or six artists."""

from functools import partial

from tcm_bench.prepare.recipes.drawings import Recipe
from tcm_bench.prepare.recipes.emoji import PACKAGES, SIDE, emoji

MIN_ARTISTS = 5
ARTISTS = ("noto", "noto-v1", "twemoji", "fluent-emoji-flat", "emojione", "fxemoji")

RECIPE = Recipe(
    name="emoji",
    title="Emoji: one picture by five or six artists",
    packages=tuple(package for package in PACKAGES if package.name.partition("/")[2] in ARTISTS),
    collect=partial(emoji, min_drawings=MIN_ARTISTS),
    min_images=MIN_ARTISTS - 1,
    method=f"""\
One class per emoji, one image per artist. Names follow the first set; a set's former names count as the current
one. Skin-tone variants were left out, and so were emoji drawn by fewer than {MIN_ARTISTS} of the six. Only sets
without a share-alike clause were taken, and of Fluent's renderings of one geometry only the flat one. Drawn at
{SIDE} px on white. Both halves of the split hold all artists: only the emoji are new at test time.""",
)
