import pytest

from tcm_bench.data.folder import folder


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
    with pytest.raises(ValueError, match="found no train image of a folder of images per class"):
        folder(tmp_path)
