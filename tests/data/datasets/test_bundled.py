"""The bundled sets: what is tracked is what is stated, and a damaged file is named."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from tcm_bench.data.datasets.bundled import bundled_splits
from tcm_bench.data.table import Splits
from tcm_bench.prepare.recipes.drawings import halves

SETS = {  # classes and images of both halves, all images taken
    "quickdraw": ((172, 17_200), (173, 17_300)),
    "emoji": ((538, 2_795), (539, 2_816)),
    "icons": ((120, 2_880), (120, 2_880)),
    "kanji": ((120, 2_880), (120, 2_880)),
    "hangul": ((120, 2_880), (120, 2_880)),
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
    return bundled_splits(root / "data" / name, stated(root, name)["splits"]["sha256"])


def test_the_counts_are_those_of_the_notice_and_the_yaml(root, name, splits):
    notice = (root / "data" / name / "NOTICE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (train|test) \| (\d+) \| (\d+) \|$", notice, flags=re.MULTILINE)
    halves = {"train": splits.train, "test": splits.test}
    assert [(half, int(classes), int(images)) for half, classes, images in rows] == [
        (half, table.num_classes, len(table)) for half, table in halves.items()
    ]
    assert tuple((table.num_classes, len(table)) for table in halves.values()) == SETS[name]


def test_no_class_is_on_both_sides_and_each_is_where_its_hash_puts_it(name, splits):
    classes = [*splits.train.class_names, *splits.test.class_names]
    assert len(set(classes)) == len(classes)
    assert halves(name, classes) == {
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
    few = bundled_splits(root / "data" / name, hashes, images_per_class=2)
    assert len(few.test) == 2 * splits.test.num_classes
    assert few.test.class_names == splits.test.class_names
    first = np.flatnonzero(np.diff(splits.test.labels, prepend=-1))
    np.testing.assert_array_equal(few.test.images[::2], splits.test.images[first])
    np.testing.assert_array_equal(few.test.images[1::2], splits.test.images[first + 1])
    assert few.fingerprint != splits.fingerprint


def test_tracked_files_are_small(root):
    # What is prepared or downloaded into data/ is not tracked.
    files = [path for name in SETS for path in (root / "data" / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 20_000_000
    assert max(path.stat().st_size for path in files) <= 6_000 * 1024
    sheets = [path for path in files if path.name == "contact_sheet.png"]
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
        bundled_splits(copy, hashes)
    assert "\n" not in str(caught.value)
    assert hashes["test"][:12] in str(caught.value)


def test_a_file_cut_short_and_a_missing_one_are_told_apart(root, tmp_path):
    copy = shutil.copytree(root / "data" / "icons", tmp_path / "icons")
    content = (copy / "train.zip").read_bytes()
    hashes = stated(root, "icons")["splits"]["sha256"]
    (copy / "train.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"train\.zip is cut short.*build\.py icons"):
        bundled_splits(copy, hashes)
    (copy / "train.zip").unlink()
    with pytest.raises(ValueError, match=r"train\.zip is missing; restore it with"):
        bundled_splits(copy, hashes)


def test_a_root_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root names .*nowhere, which is not a folder"):
        bundled_splits(tmp_path / "nowhere", {"train": "", "test": ""})


@pytest.mark.parametrize("number", [-1, 0, 1])
def test_too_few_images_per_class_are_refused(root, number):
    with pytest.raises(ValueError, match="at least 2"):
        bundled_splits(root / "data" / "icons", {"train": "", "test": ""}, images_per_class=number)
