import numpy as np
import pytest

from tcm_bench.data.cub import cub

COUNTS = {"train": (2, 5), "test": (2, 5)}


def test_the_first_hundred_classes_train_the_others_test(cub_root):
    splits = cub(cub_root, COUNTS)
    assert splits.train.class_names == ["001.Albatross", "100.Pelican"]
    assert splits.test.class_names == ["101.White_Pelican", "200.Yellowthroat"]
    for table in (splits.train, splits.test):
        assert table.labels.dtype == np.int64
        assert table.labels.tolist() == [0, 0, 1, 1, 1]
        for path, label in zip(table.paths, table.labels, strict=True):
            assert f"/images/{table.class_names[label]}/" in path


def test_every_image_is_rgb(cub_root):
    splits = cub(cub_root)
    images = [table.image(row) for table in (splits.train, splits.test) for row in range(len(table))]
    assert {(image.mode, image.size) for image in images} == {("RGB", (9, 7))}
    assert images[5].getpixel((4, 3))[0] == pytest.approx(101, abs=3)  # the first image of class 101


def test_the_archives_parent_will_do(cub_root):
    assert cub(cub_root.parent).fingerprint == cub(cub_root).fingerprint


def test_the_fingerprint_follows_the_lists(cub_root):
    before = cub(cub_root).fingerprint
    labels = cub_root / "image_class_labels.txt"
    labels.write_text(labels.read_text().replace("2 1\n", "2 100\n"))
    assert cub(cub_root).fingerprint != before


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"train": (100, 5)}, "found 2 train classes in .*CUB_200_2011 where CUB-200-2011 has 100"),
        ({"train": (2, 5), "test": (2, 6)}, "found 5 test images in .* where CUB-200-2011 has 6"),
    ],
)
def test_other_counts_are_refused(cub_root, counts, message):
    with pytest.raises(ValueError, match=message):
        cub(cub_root, counts)


def test_a_missing_or_damaged_copy_is_named(cub_root, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not a folder: CUB-200-2011 is expected there, set data.root"):
        cub(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no images.txt: CUB-200-2011 is expected"):
        cub(tmp_path / "empty")
    labels = cub_root / "image_class_labels.txt"
    whole = labels.read_text()
    labels.write_text(whole.replace("7 101\n", ""))
    with pytest.raises(ValueError, match=r"image 7 of .*images.txt has no class"):
        cub(cub_root)
    labels.write_text(whole.replace("7 101\n", "7\n"))
    with pytest.raises(ValueError, match=r"row 4 of .*image_class_labels.txt has 1 columns where 2 are expected"):
        cub(cub_root)
    labels.unlink()
    with pytest.raises(ValueError, match=r"image_class_labels.txt is missing"):
        cub(cub_root)
