"""Kanji in typefaces that differ: brush, hand, marker, relief, pixel, thin, black, worn print."""

from collections.abc import Mapping
from pathlib import Path

from typefaces import CLASSES, SIDE, Typeface, picked

from tcm_bench.packages import Package
from tcm_bench.prepare.recipes.drawings import Drawings, Recipe

PACKAGES = {
    name: Package("apt", f"fonts-{name}", version, sha256, license_name, credit)
    for name, version, license_name, credit, sha256 in (
        ("kouzan-mouhitsu", "20170411-3", "public domain", "Kouzan Aoyagi",
         "924536ceff9359b99996e56cd24633df67d696a343ba46f9e3106e8cee228dbe"),
        ("kiloji", "1:2.1.0-25", "BSD-3-Clause", "きろのの (kilo)",
         "d80100f41da216751b3d80a27dd573d12a5cde02d883d2867d866e6895527c6e"),
        ("seto", "6.20-8", "OFL-1.1", "Nozomi Seto",
         "1ce0b6124d635036d64462d7f0bece68d79608713a51d0664d4aa03da882fe2c"),
        ("yusei-magic", "1.000-20210130-2", "OFL-1.1", "The Yusei Magic Project Authors",
         "4030d34292e317ecc9dc10a68ae309a8c27ec93f256c058d248017b5051beede"),
        ("rampart", "1.000-20210120-2", "OFL-1.1", "The Rampart Project Authors",
         "b89555111a11d3efe14fc9358cb6d96c18be1c22c4004f728264cb820c6b4a11"),
        ("reggae", "1.000-20210120-2", "OFL-1.1", "The Reggae Project Authors",
         "8fa9711914c8687397d795384b4a72bee33f22dfba8aed2ed84a5c3bf2b69f4f"),
        ("stick", "1.000-20210120-2", "OFL-1.1", "The Stick Project Authors",
         "ddc9236a7e4a3a6d029178d208093821510e61d7658fd3e1b716485a97df90f1"),
        ("dotgothic16", "1.000-20210120-2", "OFL-1.1", "The DotGothic16 Project Authors",
         "970fd4b56295b515788dfea8eb442e4fcffcdb57b03e80ffbcb2775f7b153dde"),
        ("dejima-mincho", "227-16", "MIT", "Yoshiki Hayashi",
         "c86e6a7e9e54708ea9c0daa9ca321746890ab6d7c08493de65f3b90d9fa9100d"),
        ("oradano-mincho-gsrr", "0.2018-3", "free to use, embed, redistribute and derive from, no warranty",
         "Akira Uchida",
         "4394a54a57f99539d4d2de7aef8a71133ab3f65948ef71cd2fcec9e9fc652e3f"),
        ("aoyagi-soseki", "20070207-17", "public domain", "Kouzan Aoyagi",
         "d5d32b6d26155a5731c1a766d0e66ccd63778c5eebc955cf868a63b86c269585"),
        ("klee", "1.000-20210121-2", "OFL-1.1", "The Klee Project Authors",
         "5378d3169728ceb95a2ae653a64762cd8f3b82a968a4ae72bb168a034fbf4c54"),
        ("rocknroll", "1.000-20210120-2", "OFL-1.1", "The RocknRoll Project Authors",
         "4993542455f142a75ecd1838d769986993d2f56abd2cd79b189841079b1bbffe"),
        ("train", "1.000-20210120-2", "OFL-1.1", "The Train Project Authors",
         "5f491b046bc5170bfbad9c685c8fddca204fe5f19716871f77cfea75d930f88a"),
        ("motoya-l-maruberi", "1.01-5", "Apache-2.0", "Motoya, Co.LTD",
         "22af24c8dd84ace4709b4a8e899f81e8d290c0c36c0f43c49af2c185c9988c31"),
        ("sawarabi-mincho", "20220815-1", "OFL-1.1", "mshio",
         "a63cca0c7da5d6de86824060c79ee4628beea54f701a8f49196d73337d01d5e7"),
        ("mplus", "063+git20221017+ds-1", "OFL-1.1", "The M+ FONTS Project Authors",
         "d84cf5bc7ba7ff4cc95bc23177eb9354aae8d8965490059ef54b3951ba14f61b"),
        ("morisawa-bizud-gothic", "1.05-2", "OFL-1.1", "The BIZ UDGothic Project Authors",
         "a2caf06e0523cdf2e104de25881b44b34650a73c69e09374183eec06a4f61498"),
        ("lxgw-wenkai", "1.250+repack-1", "OFL-1.1", "LXGW",
         "6d1e4c4aac78ad32062aefa2c836ee4d6e58f9dcf8b3f4407c9eefe304615318"),
        ("konatu", "20121218-11", "MIT", "Mitiya Masuda",
         "72163bf8300a59c53438d510c564eb4c35439e6ac56bda2f5cc04052c9850a98"),
        ("hanazono", "20170904-2.1", "OFL-1.1", "GlyphWiki Project",
         "a6943366b4f5a6cec34221f8b4eb22555a628f0ee6ef4e3d3401cabe9363aeae"),
        ("ipaexfont-mincho", "00401-5", "IPA-1.0",
         "Japanese Character Information Technology Promotion Council (CITPC)",
         "1165917e97744c542bc832fe4b46fc0d55b446543da6e6773ecc5d036162bccd"),
        ("kanjistrokeorders", "4.003~dfsg-1", "BSD-3-Clause", "Ulrich Apel, the AAAA project and the Wadoku project",
         "e90f1f37f84c4741f1cba873fe0df000c3b2c9ad66e9b0a757096f73c8883045"),
    )
}  # fmt: skip

TYPEFACES = tuple(
    Typeface(name, PACKAGES[package], file)
    for name, package, file in (
        ("brush", "kouzan-mouhitsu", "kouzan-mouhitsu.ttf"),
        ("old brush", "aoyagi-soseki", "aoyagi-soseki.ttf"),
        ("hand", "kiloji", "kiloji.ttf"),
        ("pen", "seto", "setofont.ttf"),
        ("school pen", "klee", "KleeOne-Regular.ttf"),
        ("model hand", "lxgw-wenkai", "LXGWWenKai-Regular.ttf"),
        ("marker", "yusei-magic", "YuseiMagic-Regular.ttf"),
        ("relief", "rampart", "RampartOne-Regular.ttf"),
        ("double line", "train", "TrainOne-Regular.ttf"),
        ("comic", "reggae", "ReggaeOne-Regular.ttf"),
        ("pop", "rocknroll", "RocknRollOne-Regular.ttf"),
        ("sticks", "stick", "Stick-Regular.ttf"),
        ("pixel", "dotgothic16", "DotGothic16-Regular.ttf"),
        ("rounded", "motoya-l-maruberi", "MTLmr3m.ttf"),
        ("thin", "mplus", "Mplus1-Thin.otf"),
        ("black", "mplus", "Mplus1-Black.otf"),
        ("bold", "morisawa-bizud-gothic", "BIZUDGothic-Bold.ttf"),
        ("tight", "konatu", "Konatu.ttf"),
        ("numbered strokes", "kanjistrokeorders", "KanjiStrokeOrders_v4.003.ttf"),
        ("antique print", "dejima-mincho", "dejima-mincho-r227.ttf"),
        ("worn print", "oradano-mincho-gsrr", "OradanoGSRR.ttf"),
        ("print", "ipaexfont-mincho", "ipaexm.ttf"),
        ("light print", "sawarabi-mincho", "sawarabi-mincho-medium.ttf"),
        ("composed print", "hanazono", "HanaMinA.ttf"),
    )
)


def common_kanji() -> list[str]:
    """The 2,965 kanji of JIS X 0208 level 1, rows 16 to 47."""
    cells = (bytes([0xA0 + row, 0xA0 + cell]) for row in range(16, 48) for cell in range(1, 95))
    return [kanji for cell in cells if (kanji := cell.decode("euc_jp", errors="ignore"))]


def collect(archives: Mapping[str, Path]) -> Drawings:
    """A fixed pick of the kanji that every typeface has, in each of them."""
    return picked("kanji", common_kanji(), TYPEFACES, archives)


RECIPE = Recipe(
    name="kanji",
    title="Kanji in 24 typefaces",
    packages=tuple(dict.fromkeys(face.package for face in TYPEFACES)),
    collect=collect,
    min_images=len(TYPEFACES) - 2,
    credits={face.name: f"{face.package.license}: {face.package.credit}" for face in TYPEFACES},
    method=f"""\
One class per kanji, one image per typeface. {CLASSES} of the 2,965 kanji of JIS X 0208 level 1 were picked by the
SHA-256 of their names among those that all {len(TYPEFACES)} typefaces have: brush, hand, pen, marker, relief, comic,
sticks, pixel, rounded, thin to black, with numbered strokes, and prints of several ages. Cursive brush and eight-pixel
faces were tried and left out: a pretrained network then finds the typeface, not the kanji, and every class fails alike.
Drawn at {SIDE} px, black on white. Both halves of the split hold all typefaces: only the kanji are new at
test time.""",
)
