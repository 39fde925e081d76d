"""Kanji in typefaces that differ much: brush, hand, marker, relief, pixel, worn print."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont

from tcm_bench.packages import Package, files
from tcm_bench.prepare.recipes.drawings import Drawing, Drawings, Recipe

SIDE = 48
OVERSAMPLING = 4
EM_PX = 44  # height of a glyph's body in the square
CLASSES = 500

KOUZAN = Package(
    manager="apt",
    name="fonts-kouzan-mouhitsu",
    version="20170411-3",
    sha256="924536ceff9359b99996e56cd24633df67d696a343ba46f9e3106e8cee228dbe",
    license="public domain",
    credit="Kouzan Aoyagi",
)
KILOJI = Package(
    manager="apt",
    name="fonts-kiloji",
    version="1:2.1.0-25",
    sha256="d80100f41da216751b3d80a27dd573d12a5cde02d883d2867d866e6895527c6e",
    license="BSD-3-Clause",
    credit="きろのの (kilo)",
)
SETO = Package(
    manager="apt",
    name="fonts-seto",
    version="6.20-8",
    sha256="1ce0b6124d635036d64462d7f0bece68d79608713a51d0664d4aa03da882fe2c",
    license="OFL-1.1",
    credit="Nozomi Seto",
)
YUSEI = Package(
    manager="apt",
    name="fonts-yusei-magic",
    version="1.000-20210130-2",
    sha256="4030d34292e317ecc9dc10a68ae309a8c27ec93f256c058d248017b5051beede",
    license="OFL-1.1",
    credit="The Yusei Magic Project Authors",
)
RAMPART = Package(
    manager="apt",
    name="fonts-rampart",
    version="1.000-20210120-2",
    sha256="b89555111a11d3efe14fc9358cb6d96c18be1c22c4004f728264cb820c6b4a11",
    license="OFL-1.1",
    credit="The Rampart Project Authors",
)
REGGAE = Package(
    manager="apt",
    name="fonts-reggae",
    version="1.000-20210120-2",
    sha256="8fa9711914c8687397d795384b4a72bee33f22dfba8aed2ed84a5c3bf2b69f4f",
    license="OFL-1.1",
    credit="The Reggae Project Authors",
)
STICK = Package(
    manager="apt",
    name="fonts-stick",
    version="1.000-20210120-2",
    sha256="ddc9236a7e4a3a6d029178d208093821510e61d7658fd3e1b716485a97df90f1",
    license="OFL-1.1",
    credit="The Stick Project Authors",
)
DOT = Package(
    manager="apt",
    name="fonts-dotgothic16",
    version="1.000-20210120-2",
    sha256="970fd4b56295b515788dfea8eb442e4fcffcdb57b03e80ffbcb2775f7b153dde",
    license="OFL-1.1",
    credit="The DotGothic16 Project Authors",
)
DEJIMA = Package(
    manager="apt",
    name="fonts-dejima-mincho",
    version="227-16",
    sha256="c86e6a7e9e54708ea9c0daa9ca321746890ab6d7c08493de65f3b90d9fa9100d",
    license="MIT",
    credit="Yoshiki Hayashi",
)
ORADANO = Package(
    manager="apt",
    name="fonts-oradano-mincho-gsrr",
    version="0.2018-3",
    sha256="4394a54a57f99539d4d2de7aef8a71133ab3f65948ef71cd2fcec9e9fc652e3f",
    license="free to use, embed, redistribute and derive from, no warranty",
    credit="Akira Uchida",
)


@dataclass(frozen=True)
class Typeface:
    """One font file of a package."""

    name: str
    package: Package
    file: str


TYPEFACES = (
    Typeface("brush", KOUZAN, "kouzan-mouhitsu.ttf"),
    Typeface("hand", KILOJI, "kiloji.ttf"),
    Typeface("pen", SETO, "setofont.ttf"),
    Typeface("marker", YUSEI, "YuseiMagic-Regular.ttf"),
    Typeface("relief", RAMPART, "RampartOne-Regular.ttf"),
    Typeface("comic", REGGAE, "ReggaeOne-Regular.ttf"),
    Typeface("sticks", STICK, "Stick-Regular.ttf"),
    Typeface("pixel", DOT, "DotGothic16-Regular.ttf"),
    Typeface("antique print", DEJIMA, "dejima-mincho-r227.ttf"),
    Typeface("worn print", ORADANO, "OradanoGSRR.ttf"),
)


def font_bytes(archive: Path, file: str) -> bytes:
    """The content of one file of a Debian package, found by its name."""
    ((_, content),) = files(archive, f"*/{file}")
    return content


def common_kanji() -> list[str]:
    """The 2,965 kanji of JIS X 0208 level 1, rows 16 to 47."""
    cells = (bytes([0xA0 + row, 0xA0 + cell]) for row in range(16, 48) for cell in range(1, 95))
    return [kanji for cell in cells if (kanji := cell.decode("euc_jp", errors="ignore"))]


def draw(font: ImageFont.FreeTypeFont, kanji: str) -> np.ndarray:
    """The glyph in black, its ink centered on a white square, uint8 ``(side, side, 3)``."""
    side = SIDE * OVERSAMPLING
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = pen.textbbox((0, 0), kanji, font=font)
    pen.text(((side - left - right) / 2, (side - top - bottom) / 2), kanji, font=font, fill="black")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def collect(archives: Mapping[str, Path]) -> Drawings:
    """A fixed pick of the kanji that every typeface has, in each of them."""
    fonts = {face.name: font_bytes(archives[face.package.name], face.file) for face in TYPEFACES}
    characters = [TTFont(io.BytesIO(content)).getBestCmap() for content in fonts.values()]
    shared = [kanji for kanji in common_kanji() if all(ord(kanji) in has for has in characters)]
    shared.sort(key=lambda kanji: hashlib.sha256(f"kanji/{kanji}".encode()).digest())
    loaded = {
        name: ImageFont.truetype(io.BytesIO(content), EM_PX * OVERSAMPLING, layout_engine=ImageFont.Layout.BASIC)
        for name, content in fonts.items()
    }
    return {kanji: [Drawing(draw(font, kanji), name) for name, font in loaded.items()] for kanji in shared[:CLASSES]}


RECIPE = Recipe(
    name="kanji",
    title="Kanji in ten unlike typefaces",
    packages=tuple(dict.fromkeys(face.package for face in TYPEFACES)),
    collect=collect,
    min_images=len(TYPEFACES) - 2,
    credits={face.name: f"{face.package.license}: {face.package.credit}" for face in TYPEFACES},
    method=f"""\
One class per kanji, one image per typeface. {CLASSES} of the 2,965 kanji of JIS X 0208 level 1 were picked by the
SHA-256 of their names among those that all {len(TYPEFACES)} typefaces have. The typefaces were chosen for being unlike
and still readable: brush, hand, pen, marker, relief, comic, sticks, pixel, antique and worn print. Cursive brush and
eight-pixel faces were tried and left out: a pretrained network then finds the typeface, not the kanji, and every class
fails alike. Drawn at {SIDE} px, black on white. Both halves of the split hold all typefaces: only the kanji are new at
test time.""",
)
