"""Characters of one script in many typefaces: how a glyph is drawn, and which characters are picked."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from tcm_bench.packages import Package, files
from tcm_bench.prepare.recipes.drawings import Drawing, Drawings, shuffle_key

SIDE = 48
OVERSAMPLING = 4
EM_PX = 44  # height of a glyph's body in the square
CLASSES = 240


@dataclass(frozen=True)
class Typeface:
    """One font file of a package."""

    name: str
    package: Package
    file: str


def font_bytes(archive: Path, file: str) -> bytes:
    """The content of one file of a Debian package, found by its name."""
    ((_, content),) = files(archive, f"*/{file}")
    return content


def draw(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """The glyph in black, its ink centered on a white square and shrunk if need be, uint8 ``(side, side, 3)``."""
    left, top, right, bottom = font.getbbox(character)
    side = max(SIDE * OVERSAMPLING, right - left, bottom - top)
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    pen.text(((side - left - right) / 2, (side - top - bottom) / 2), character, font=font, fill="black")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def picked(
    name: str, characters: Sequence[str], typefaces: Sequence[Typeface], archives: Mapping[str, Path]
) -> Drawings:
    """``CLASSES`` of the characters that every typeface has, in each of them.

    Args:
        name: The set's, which seeds the pick.
        characters: To pick from.
        typefaces: In the order in which a class's drawings stand.
        archives: Their packages by name.
    """
    fonts = {face.name: font_bytes(archives[face.package.name], face.file) for face in typefaces}
    known = [TTFont(io.BytesIO(content)).getBestCmap() for content in fonts.values()]
    shared = [character for character in characters if all(ord(character) in has for has in known)]
    shared.sort(key=lambda character: shuffle_key(name, character))
    loaded = {
        face: ImageFont.truetype(io.BytesIO(content), EM_PX * OVERSAMPLING, layout_engine=ImageFont.Layout.BASIC)
        for face, content in fonts.items()
    }
    return {
        character: [Drawing(draw(font, character), face) for face, font in loaded.items()]
        for character in shared[:CLASSES]
    }
