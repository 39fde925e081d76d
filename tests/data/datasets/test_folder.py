import os

import numpy as np
import official
import pytest
from PIL import Image

from tcm_bench.data.datasets.folder import folder


@pytest.fixture
def folder_root(tmp_path):
    """Five classes, images at two depths, in three formats, and what is no image."""
    root = tmp_path / "mine"
    for number, cls in enumerate("abcde"):
        official.write_image(root / cls / "1.jpg", number)
        (root / cls / "more").mkdir()
        Image.new("LA", (9, 7), (number, 9)).save(root / cls / "more" / "2.PNG")
    Image.new("P", (9, 7), 3).save(root / "a" / "3.gif")
    (root / "a" / "._1.jpg").write_bytes(b"Mac OS X")
    (root / "a" / "notes.txt").write_text("no image")
    (root / "empty").mkdir()
    (root / ".cache").mkdir()
    return root


def test_every_second_class_tests(folder_root):
    splits = folder(folder_root, {"train": (3, 7), "test": (2, 4)})
    assert splits.train.class_names == ["a", "c", "e"]
    assert splits.test.class_names == ["b", "d"]
    relative = [path.removeprefix(f"{folder_root}/") for path in splits.train.paths]
    assert relative == ["a/1.jpg", "a/3.gif", "a/more/2.PNG", "c/1.jpg", "c/more/2.PNG", "e/1.jpg", "e/more/2.PNG"]
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert {splits.train.image(row).mode for row in range(7)} == {"RGB"}


def test_train_and_test_folders(folder_root):
    moved = folder_root.rename(folder_root.parent / "source")
    for split, classes in (("train", "ad"), ("test", "bce")):
        for cls in classes:
            (folder_root / split).mkdir(parents=True, exist_ok=True)
            (moved / cls).rename(folder_root / split / cls)
    splits = folder(folder_root)
    assert splits.train.class_names == ["a", "d"]
    assert splits.test.class_names == ["b", "c", "e"]
    assert splits.test.paths[0] == f"{folder_root}/test/b/1.jpg"
    assert splits.test.labels.tolist() == [0, 0, 1, 1, 2, 2]

    (folder_root / "train" / "a").rename(folder_root / "train" / "e")
    with pytest.raises(ValueError, match="1 classes are in train and in test, for example 'e'"):
        folder(folder_root)


def test_the_fingerprint_is_that_of_the_content(folder_root):
    before = folder(folder_root).fingerprint
    moved = folder_root.rename(folder_root.parent / "elsewhere")
    assert folder(moved).fingerprint == before
    (moved / "c" / "1.jpg").rename(moved / "c" / "9.jpg")
    assert folder(moved).fingerprint != before


def test_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not a folder: set data.root"):
        folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"0 folder\(s\) of images, where at least 4 are needed: one for each class"):
        folder(tmp_path)
    (tmp_path / "test").mkdir()
    official.write_image(tmp_path / "train" / "a" / "1.jpg", 1)
    with pytest.raises(ValueError, match=r"/train has 1 folder\(s\) of images \(a\), where at least 2 are needed"):
        folder(tmp_path)


def test_counts_of_ones_own_are_checked_without_talk_of_a_subset(folder_root):
    with pytest.raises(ValueError, match=r"found 7 train images in .* has 9: .* another dataset$"):
        folder(folder_root, {"train": (3, 9), "test": (2, 4)})


def test_images_outside_of_folders_are_counted(tmp_path):
    for number in range(3):
        official.write_image(tmp_path / f"{number}.jpg", number)
    official.write_image(tmp_path / "one" / "3.jpg", 3)
    message = r"has 1 folder\(s\) of images \(one\), and 3 images outside of any, where at least 4 are needed"
    with pytest.raises(ValueError, match=message):
        folder(tmp_path)


def test_sixteen_bits_of_grey_keep_their_range(folder_root):
    """Pillow's own conversion to RGB clips them at 255: all but the darkest would be white."""
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    Image.fromarray(ramp).save(folder_root / "a" / "0.png")
    found = np.asarray(folder(folder_root).train.image(0))
    assert found.shape == (16, 16, 3)
    assert np.array_equal(found[..., 0], np.arange(256).reshape(16, 16))


def test_names_of_any_bytes_are_read(folder_root):
    name = os.fsdecode(b"caf\xe9.jpg")
    official.write_image(folder_root / "a" / name, 1)
    splits = folder(folder_root)
    row = list(splits.train.paths).index(f"{folder_root}/a/{name}")
    assert splits.train.image(row).mode == "RGB"
