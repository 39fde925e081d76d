"""Hangul syllables in typefaces that differ: brush, pen, headline, crayon, pierced, light, bold."""

from collections.abc import Mapping
from pathlib import Path

from typefaces import CLASSES, SIDE, Typeface, picked

from tcm_bench.packages import Package
from tcm_bench.prepare.recipes.drawings import Drawings, Recipe

NAVER, WOOWA = "NAVER Corporation", "Woowa Brothers Corporation"
PACKAGES = {
    name: Package("apt", f"fonts-{name}", version, sha256, license_name, credit)
    for name, version, license_name, credit, sha256 in (
        ("alee", "13.3", "Artistic-1.0", "A Lee",
         "9d38eb6c2ff02864035d56d89a398288371891d2e7e20fb909f9ef18c0a23c54"),
        ("baekmuk", "2.2-13", "free to use, copy, modify and distribute with its notice", "Kim Jeong-Hwan",
         "19dbd99e597a35c8f63a36b3e880d8f3df61099e1cb92c5744146240fc4bee55"),
        ("nanum", "20200506-1", "OFL-1.1", NAVER,
         "5e86c346e6485b694e1f0ebd27132892fcf014d1b975de4fd21d1654ddf37043"),
        ("nanum-extra", "20200506-1", "OFL-1.1", NAVER,
         "05ee7f37582df6a9cec4b259e58d1ca7919bf8c6c3c6502959639a7e51411559"),
        ("nanum-eco", "1.000-7", "OFL-1.1", NAVER,
         "233bafa5eb3535eb99a09273c0bbec25b944376793dff87f99b14d3a1b66b2a7"),
        ("woowa-bm", "20211009-2", "OFL-1.1", WOOWA,
         "926b0404d616a0b48c1443ee9077020d720ece1914e6dec09d9435ff0ea68fa6"),
    )
}  # fmt: skip
TYPEFACES = tuple(
    Typeface(name, PACKAGES[package], file)
    for name, package, file in (
        ("pen", "nanum-extra", "NanumPen.ttf"),
        ("brush", "nanum-extra", "NanumBrush.ttf"),
        ("felt pen", "nanum-extra", "NanumBarunpenR.ttf"),
        ("scribble", "alee", "EunjinNakseo.ttf"),
        ("child's hand", "alee", "Eunjin.ttf"),
        ("beads", "alee", "Guseul.ttf"),
        ("half moon", "alee", "Bandal.ttf"),
        ("drops", "alee", "Bangwool.ttf"),
        ("headline", "baekmuk", "hline.ttf"),
        ("print", "baekmuk", "batang.ttf"),
        ("rounded", "baekmuk", "gulim.ttf"),
        ("light print", "nanum", "NanumMyeongjo.ttf"),
        ("bold print", "nanum-extra", "NanumMyeongjoExtraBold.ttf"),
        ("pierced", "nanum-eco", "NanumGothicEco.ttf"),
        ("gothic", "nanum", "NanumGothic.ttf"),
        ("square bold", "nanum", "NanumSquareB.ttf"),
        ("round bold", "nanum", "NanumSquareRoundB.ttf"),
        ("hairline", "nanum-extra", "NanumBarunGothicUltraLight.ttf"),
        ("sign", "woowa-bm", "BMHANNA_11yrs_ttf.ttf"),
        ("sign round", "woowa-bm", "BMJUA_ttf.ttf"),
        ("sign cut", "woowa-bm", "BMDOHYEON_ttf.ttf"),
        ("sign brush", "woowa-bm", "BMYEONSUNG_ttf.ttf"),
        ("sign hand", "woowa-bm", "BMKIRANGHAERANG-TTF.ttf"),
        ("sign painted", "woowa-bm", "BMEULJIROTTF.ttf"),
    )
)


def common_syllables() -> list[str]:
    """The 2,350 syllables of KS X 1001, rows 16 to 40."""
    return [bytes([0xA0 + row, 0xA0 + cell]).decode("euc_kr") for row in range(16, 41) for cell in range(1, 95)]


def collect(archives: Mapping[str, Path]) -> Drawings:
    """A fixed pick of the syllables that every typeface has, in each of them."""
    return picked("hangul", common_syllables(), TYPEFACES, archives)


RECIPE = Recipe(
    name="hangul",
    title="Hangul in 24 typefaces",
    packages=tuple(dict.fromkeys(face.package for face in TYPEFACES)),
    collect=collect,
    min_images=len(TYPEFACES) - 2,
    credits={face.name: f"{face.package.license}: {face.package.credit}" for face in TYPEFACES},
    method=f"""\
One class per syllable, one image per typeface. {CLASSES} of the 2,350 syllables of KS X 1001 were picked by the SHA-256
of their names among those that all {len(TYPEFACES)} typefaces have: pen, brush, children's hands, beads, drops,
headlines, pierced, hairline to bold, and painted signs. Drawn at {SIDE} px, black on white. Both halves of the split
hold all typefaces: only the syllables are new at test time.""",
)
