"""Sets of pictures are packed the same way every time, and read back as they were."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tcm_bench.data.datasets.bundled import bundled_splits, read_table
from tcm_bench.prepare.recipes.drawings import Drawing, Recipe, distinct, halves
from tcm_bench.prepare.recipes.strips import build, set_files


def drawings(classes: int = 6, images: int = 3, side: int = 8):
    """Noise in place of pictures: every one differs."""
    pixels = np.random.default_rng(0).integers(0, 256, (classes, images, side, side, 3), dtype=np.uint8)
    return {f"class {c}": [Drawing(pixels[c, i], f"artist {i}") for i in range(images)] for c in range(classes)}


TOY = Recipe(name="toy", title="Toy", packages=(), collect=lambda archives: drawings(), method="Made up.")


def test_packing_is_a_pure_function_that_the_reader_inverts():
    group = drawings()
    files = set_files(TOY, group)
    assert files == set_files(TOY, dict(reversed(group.items())))
    assert set(files) == {"train.zip", "test.zip", "contact_sheet.png", "NOTICE.md"}
    tables = [read_table(files[f"{half}.zip"], None) for half in ("train", "test")]
    assert sorted(name for table in tables for name in table.class_names) == list(group)
    for table in tables:
        for label, class_name in enumerate(table.class_names):
            expected = np.stack([drawing.pixels for drawing in group[class_name]])
            np.testing.assert_array_equal(table.images[table.labels == label], expected)


@pytest.mark.parametrize("gray", [False, True])
def test_a_class_too_tall_for_webp_is_read_back_as_well(gray):
    """WebP ends at 16,383 pixels; a digit of MNIST needs 200,000."""
    group = drawings(classes=2, images=700, side=28)
    if gray:
        group = {name: [replace(d, pixels=d.pixels[..., :1].repeat(3, -1)) for d in ds] for name, ds in group.items()}
    packed = set_files(replace(TOY, distinct=False), group)["test.zip"]
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        (entry,) = archive.namelist()
        assert entry.endswith(".png")
        assert Image.open(archive.open(entry)).mode == ("L" if gray else "RGB")
    table = read_table(packed, None)
    np.testing.assert_array_equal(table.images, np.stack([d.pixels for d in group[table.class_names[0]]]))


def test_a_set_is_built_in_a_folder_with_its_notice_and_counted(tmp_path):
    (tmp_path / "set").mkdir()
    build(replace(TOY, bundled=False), tmp_path / "set", tmp_path / "downloads")
    whole = {"train": (3, 9), "test": (3, 9)}
    splits = bundled_splits(tmp_path / "set", counts=whole)
    assert splits.train.num_classes == 3
    notice = (tmp_path / "set" / "NOTICE.md").read_text()
    assert "| train | 3 | 9 |" in notice
    assert "`tcm-bench data prepare toy`" in notice
    with pytest.raises(ValueError, match=r"test\.zip holds 9 images of 3 classes where 10 of 3 are expected"):
        bundled_splits(tmp_path / "set", counts={**whole, "test": (3, 10)})


def test_a_damaged_archive_is_one_sentence(tmp_path):
    build(TOY, tmp_path, tmp_path)
    content = bytearray((tmp_path / "test.zip").read_bytes())
    content[100] ^= 1
    (tmp_path / "test.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"an archive in .* is damaged \(.*\); make it anew"):
        bundled_splits(tmp_path)
    (tmp_path / "test.zip").unlink()
    with pytest.raises(ValueError, match=r"test\.zip is missing; make it with `tcm-bench data prepare`"):
        bundled_splits(tmp_path)


def test_pictures_that_cannot_be_told_apart_are_dropped():
    group = drawings(classes=3)
    group["class 0"].append(group["class 0"][1])  # twice in one class: once is enough
    group["class 1"][0] = group["class 2"][0]  # in two classes: whose is it?
    kept = distinct(group, min_images=2)
    assert [drawing.source for drawing in kept["class 0"]] == ["artist 0", "artist 1", "artist 2"]
    assert [drawing.source for drawing in kept["class 1"]] == ["artist 1", "artist 2"]
    assert [drawing.source for drawing in kept["class 2"]] == ["artist 1", "artist 2"]
    assert list(distinct(group, min_images=3)) == ["class 0"]


def test_the_split_does_not_depend_on_the_order_and_the_larger_half_is_for_testing():
    names = [f"class {number}" for number in range(7)]
    sides = halves("toy", names)
    assert halves("toy", names[::-1]) == sides
    assert sorted(sides["train"] + sides["test"]) == names
    assert (len(sides["train"]), len(sides["test"])) == (3, 4)
    assert halves("another", names) != sides
