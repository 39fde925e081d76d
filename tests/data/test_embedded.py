"""The embedded sets: what is tracked is what is stated, and a damaged file is named."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from tcm_bench.data.embedded import embedded_splits, read_table
from tcm_bench.data.table import Splits

SETS = {  # classes and images of both halves, all images taken
    "quickdraw": ((172, 17_200), (173, 17_300)),
    "emoji": ((538, 2_795), (539, 2_816)),
    "icons": ((512, 2_449), (512, 2_548)),
    "kanji": ((250, 2_500), (250, 2_500)),
}


@pytest.fixture(scope="module", params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def stated(root: Path, name: str) -> dict:
    """The set's yaml, unresolved."""
    config = OmegaConf.to_container(OmegaConf.load(root / "conf" / "data" / f"{name}.yaml"))
    assert isinstance(config, dict)
    return config


@pytest.fixture(scope="module")
def splits(root: Path, name: str) -> Splits:
    return embedded_splits(root / "data" / name, stated(root, name)["splits"]["sha256"])


@pytest.fixture
def packing(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The builder's packing; its modules are scripts, found beside each other."""
    monkeypatch.syspath_prepend(str(root / "scripts" / "embedded_data"))
    import pack
    import recipe

    return pack, recipe


def test_the_counts_are_those_of_the_notice_and_the_yaml(root, name, splits):
    notice = (root / "data" / name / "NOTICE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (train|test) \| (\d+) \| (\d+) \|$", notice, flags=re.MULTILINE)
    halves = {"train": splits.train, "test": splits.test}
    assert [(half, int(classes), int(images)) for half, classes, images in rows] == [
        (half, table.num_classes, len(table)) for half, table in halves.items()
    ]
    assert tuple((table.num_classes, len(table)) for table in halves.values()) == SETS[name]
    assert stated(root, name)["num_train_classes"] == splits.train.num_classes


def test_no_class_is_on_both_sides_and_each_is_where_its_hash_puts_it(name, splits, packing):
    pack, _ = packing
    classes = [*splits.train.class_names, *splits.test.class_names]
    assert len(set(classes)) == len(classes)
    assert pack.halves(name, classes) == {
        "train": list(splits.train.class_names),
        "test": list(splits.test.class_names),
    }


def test_every_class_has_a_pair_and_pictures_have_content(splits):
    for table in (splits.train, splits.test):
        assert np.bincount(table.labels).min() >= 2
        assert table.images.dtype == np.uint8
        darkest = table.images.reshape(len(table), -1).min(axis=1)
        assert darkest.max() < 255, "a blank picture"
        assert table.images[:, 0, 0].mean() > 128, "the background should be light"
        image = table.image(0)
        assert (image.mode, image.size) == ("RGB", table.images.shape[2:0:-1])


def test_pictures_of_one_class_differ(name, splits):
    repeated = 0
    for table in (splits.train, splits.test):
        keys = [(label, image.tobytes()) for label, image in zip(table.labels, table.images, strict=True)]
        repeated += len(keys) - len(set(keys))
    assert repeated == (1 if name == "quickdraw" else 0)  # one sketch occurs twice in the published data


def test_fewer_images_per_class_are_the_first_ones(root, name, splits):
    hashes = stated(root, name)["splits"]["sha256"]
    few = embedded_splits(root / "data" / name, hashes, images_per_class=2)
    assert len(few.test) == 2 * splits.test.num_classes
    assert few.test.class_names == splits.test.class_names
    first = np.flatnonzero(np.diff(splits.test.labels, prepend=-1))
    np.testing.assert_array_equal(few.test.images[::2], splits.test.images[first])
    np.testing.assert_array_equal(few.test.images[1::2], splits.test.images[first + 1])
    assert few.fingerprint != splits.fingerprint


def test_tracked_files_are_small(root):
    files = [path for path in (root / "data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    assert max(path.stat().st_size for path in files) <= 6_000 * 1024
    sheets = list((root / "data").glob("*/contact_sheet.png"))
    assert len(sheets) == len(SETS)
    for sheet in sheets:
        assert sheet.stat().st_size <= 300_000
        with Image.open(sheet) as image:
            image.verify()


def test_a_flipped_byte_is_one_sentence_with_the_remedy(root, tmp_path):
    copy = shutil.copytree(root / "data" / "icons", tmp_path / "icons")
    content = bytearray((copy / "test.zip").read_bytes())
    content[len(content) // 2] ^= 0x01
    (copy / "test.zip").write_bytes(content)
    hashes = stated(root, "icons")["splits"]["sha256"]
    with pytest.raises(
        ValueError, match=r"icons.test\.zip is damaged or replaced.*git checkout -- data/icons"
    ) as caught:
        embedded_splits(copy, hashes)
    assert "\n" not in str(caught.value)
    assert hashes["test"][:12] in str(caught.value)


def test_a_file_cut_short_and_a_missing_one_are_told_apart(root, tmp_path):
    copy = shutil.copytree(root / "data" / "icons", tmp_path / "icons")
    content = (copy / "train.zip").read_bytes()
    hashes = stated(root, "icons")["splits"]["sha256"]
    (copy / "train.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"train\.zip is cut short.*build\.py icons"):
        embedded_splits(copy, hashes)
    (copy / "train.zip").unlink()
    with pytest.raises(ValueError, match=r"train\.zip is missing; restore it with"):
        embedded_splits(copy, hashes)


def test_a_root_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root names .*nowhere, which is not a folder"):
        embedded_splits(tmp_path / "nowhere", {"train": "", "test": ""})


@pytest.mark.parametrize("number", [-1, 0, 1])
def test_too_few_images_per_class_are_refused(root, number):
    with pytest.raises(ValueError, match="at least 2"):
        embedded_splits(root / "data" / "icons", {"train": "", "test": ""}, images_per_class=number)


def drawings(recipe, classes: int = 6, images: int = 3, side: int = 8):
    """Noise in place of pictures: every one differs."""
    pixels = np.random.default_rng(0).integers(0, 256, (classes, images, side, side, 3), dtype=np.uint8)
    return {f"class {c}": [recipe.Drawing(pixels[c, i], f"artist {i}") for i in range(images)] for c in range(classes)}


def test_packing_is_a_pure_function_that_the_reader_inverts(packing):
    pack, recipe = packing
    group = drawings(recipe)
    plan = recipe.Recipe(name="toy", title="Toy", packages=(), collect=lambda archives: group, method="Made up.")
    files = pack.tracked_files(plan, group)
    assert files == pack.tracked_files(plan, dict(reversed(group.items())))
    assert set(files) == {"train.zip", "test.zip", "contact_sheet.png", "NOTICE.md"}
    tables = [read_table(files[f"{half}.zip"], None) for half in ("train", "test")]
    assert sorted(name for table in tables for name in table.class_names) == list(group)
    for table in tables:
        for label, class_name in enumerate(table.class_names):
            expected = np.stack([drawing.pixels for drawing in group[class_name]])
            np.testing.assert_array_equal(table.images[table.labels == label], expected)


def test_pictures_that_cannot_be_told_apart_are_dropped(packing):
    pack, recipe = packing
    group = drawings(recipe, classes=3)
    group["class 0"].append(group["class 0"][1])  # twice in one class: once is enough
    group["class 1"][0] = group["class 2"][0]  # in two classes: whose is it?
    kept = pack.distinct(group, min_images=2)
    assert [drawing.source for drawing in kept["class 0"]] == ["artist 0", "artist 1", "artist 2"]
    assert [drawing.source for drawing in kept["class 1"]] == ["artist 1", "artist 2"]
    assert [drawing.source for drawing in kept["class 2"]] == ["artist 1", "artist 2"]
    assert list(pack.distinct(group, min_images=3)) == ["class 0"]


def test_an_archive_that_is_not_the_pinned_one_is_refused(packing, tmp_path):
    import fetch

    _, recipe = packing
    package = recipe.Package("npm", "@scope/toy", "1.0.0", "0" * 64, "MIT", "Nobody")
    (tmp_path / "scope-toy-1.0.0").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"scope-toy-1\.0\.0 has sha256 .* is pinned to 0{64}"):
        fetch.fetch(package, tmp_path)
