import hashlib
import re

import numpy as np
import official
import pytest
from scipy.io import loadmat, savemat

from tcm_bench.data.datasets.cars import COUNTS, cars

LAYOUTS = {
    "A": (official.cars_folder_a, {}),
    "B": (official.cars_folder_b, {}),
    "B, labels in devkit": (official.cars_folder_b, {"labels": "devkit"}),
    "B, nested": (official.cars_folder_b, {"nested": True}),
    "Kaggle": (official.cars_folder_b, {"nested": True, "list_a": True}),
}


def place_of(path):
    return path.split("/car", 1)[1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("inside", [".", "CARS196"])
def test_the_classes_are_the_same_in_each_layout(tmp_path, layout, inside):
    write, odd = LAYOUTS[layout]
    write(tmp_path / inside, **odd)
    official.write_mac_files(tmp_path, tmp_path / inside / ("car_ims" if layout == "A" else "cars_train"))
    splits = cars(tmp_path, subset=True)
    names = [official.CARS_NAMES[number - 1] for number in official.CARS_CLASSES]
    assert (splits.train.class_names, splits.test.class_names) == (names[:4], names[4:])
    for table in (splits.train, splits.test):
        assert np.bincount(table.labels).tolist() == [4, 4, 4, 5]
        assert {table.image(row).mode for row in range(len(table))} == {"RGB"}


def test_one_list(tmp_path):
    splits = cars(official.cars_folder_a(tmp_path), subset=True)
    assert [place_of(path) for path in splits.train.paths] == [f"_ims/{number:06}.jpg" for number in range(1, 18)]
    assert [place_of(path) for path in splits.test.paths] == [f"_ims/{number:06}.jpg" for number in range(18, 35)]
    assert splits.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 5


@pytest.mark.parametrize("nested", [False, True])
def test_train_and_test_folders_are_merged(tmp_path, nested):
    splits = cars(official.cars_folder_b(tmp_path, nested=nested), subset=True)
    train, test = ("s_train/cars_train", "s_test/cars_test") if nested else ("s_train", "s_test")
    found = [place_of(path) for path in splits.test.paths]
    assert found[:2] == [f"{train}/00010.jpg", f"{train}/00011.jpg"]  # 3 + 2 + 2 + 2 before: 9 official training images
    assert found[9:11] == [f"{test}/00009.jpg", f"{test}/00010.jpg"]
    assert splits.test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 0, 0, 1, 1, 2, 2, 3, 3]
    assert len({*splits.train.paths, *splits.test.paths}) == 34


def test_the_fingerprint_does_not_depend_on_how_the_folders_are_nested(tmp_path):
    plain = cars(official.cars_folder_b(tmp_path / "plain"), subset=True)
    nested = cars(official.cars_folder_b(tmp_path / "nested", nested=True, list_a=True), subset=True)
    assert nested.fingerprint == plain.fingerprint
    lines = [
        f"{side}\t{table.paths.name(row)}\t{table.class_names[label]}\n"
        for side, table in (("train", plain.train), ("test", plain.test))
        for row, label in enumerate(table.labels)
    ]
    assert plain.fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_both_layouts_at_once_are_read_as_a(tmp_path):
    expected = cars(official.cars_folder_a(tmp_path), subset=True)
    official.cars_folder_b(tmp_path)
    assert cars(tmp_path, subset=True).fingerprint == expected.fingerprint


def test_lists_are_found_where_copies_put_them(tmp_path):
    expected = cars(official.cars_folder_b(tmp_path), subset=True)
    labels = tmp_path / official.LABELED
    labels.rename(tmp_path / "cars_test_annos_withlabels (1).mat")
    assert cars(tmp_path, subset=True).fingerprint == expected.fingerprint
    (tmp_path / "car_devkit").mkdir()
    (tmp_path / "devkit").rename(tmp_path / "car_devkit" / "devkit")
    assert cars(tmp_path, subset=True).fingerprint == expected.fingerprint
    for file in (tmp_path / "car_devkit" / "devkit").iterdir():
        file.rename(tmp_path / file.name)
    assert cars(tmp_path, subset=True).fingerprint == expected.fingerprint
    (tmp_path / "._cars_train_annos.mat").write_bytes(b"Mac OS X")
    assert cars(tmp_path, subset=True).fingerprint == expected.fingerprint


def test_a_part_or_more_is_not_the_benchmark(tmp_path, monkeypatch):
    root = official.cars_folder_a(tmp_path)
    with pytest.raises(ValueError, match=r"found 4 train classes in .* where Cars-196 has 98"):
        cars(root)
    monkeypatch.setitem(COUNTS, "test", (98, 16))
    with pytest.raises(ValueError, match=r"found 17 test images in .* where Cars-196 has 16"):
        cars(root, subset=True)


def test_a_whole_set_has_each_class(tmp_path):
    classes = [1 + row % 98 for row in range(8_054)] + [99 + row % 98 for row in range(8_131)]
    (tmp_path / "car_ims").mkdir()
    rows = [
        {"relative_im_path": f"car_ims/{row:06}.jpg", "class": number} for row, number in enumerate(classes, start=1)
    ]
    official.write_mat(tmp_path / "cars_annos.mat", rows, official.CARS_NAMES)
    splits = cars(tmp_path)
    assert (splits.train.num_classes, len(splits.train)) == COUNTS["train"] == (98, 8_054)
    assert (splits.test.num_classes, len(splits.test)) == COUNTS["test"] == (98, 8_131)


def test_images_of_kaggle_with_the_other_list_need_the_development_kit(tmp_path):
    root = official.cars_folder_b(tmp_path, nested=True, labels=None, list_a=True)
    for file in (root / "devkit").iterdir():
        file.unlink()
    message = "not cars_train_annos.mat and cars_test_annos_withlabels.mat: put devkit/ (of car_devkit.tgz)"
    with pytest.raises(ValueError, match=re.escape(message)):
        cars(root, subset=True)


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not a folder: Cars-196 is expected there"):
        cars(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no car_ims or cars_train: Cars-196 is expected there"):
        cars(tmp_path / "empty")
    root = official.cars_folder_b(tmp_path / "b", labels=None)
    with pytest.raises(ValueError, match=r"images of Cars-196 but not cars_test_annos_withlabels.mat: put devkit/"):
        cars(root, subset=True)
    root = official.cars_folder_b(tmp_path / "unnamed")
    (root / "devkit" / "cars_meta.mat").unlink()
    with pytest.raises(ValueError, match=r"unnamed has no cars_meta.mat, which names the classes"):
        cars(root, subset=True)
    root = official.cars_folder_a(tmp_path / "a")
    (root / "cars_annos.mat").unlink()
    with pytest.raises(ValueError, match=r"cars_annos.mat is missing: it is one of the lists of Cars-196"):
        cars(root, subset=True)


def test_a_list_cut_short_or_of_another_kind_is_one_sentence(tmp_path):
    root = official.cars_folder_a(tmp_path)
    whole = (root / "cars_annos.mat").read_bytes()
    cut = [whole[:size] for size in (1, 127, 128, 130, 136, 200, 1000, len(whole) // 2, 2 * len(whole) // 3)]
    for content in [b"", b"\x80\x04\x95pickle.", b"<html>404</html>" * 100, *cut]:
        (root / "cars_annos.mat").write_bytes(content)
        with pytest.raises(ValueError, match=r"cars_annos.mat is damaged or not the list of Cars-196: .*\)$"):
            cars(root, subset=True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("class", 197, r"has the test class 197: Cars-196 knows none of that number"),
        ("class", 0, r"has the train class 0: Cars-196 knows none of that number"),
        ("class", 1.5, r"cars_annos.mat has the class 1.5 in row 3, where a number is expected"),
        ("class", "one", r"cars_annos.mat has the class 'one' in row 3, where a number is expected"),
        ("relative_im_path", 7, r"cars_annos.mat has 7 in relative_im_path, where a text is expected"),
        ("relative_im_path", "car_ims/../../x.jpg", r"name 'car_ims/../../x.jpg', which does not lie in"),
        ("relative_im_path", "car_ims/000001.jpg", r"name 'car_ims/000001.jpg' more than once"),
        ("relative_im_path", "car_ims/000034.jpg", r"name 'car_ims/000034.jpg' more than once"),
    ],
)
def test_a_wrong_row_is_refused(tmp_path, field, value, message):
    root = official.cars_folder_a(tmp_path)
    content = loadmat(root / "cars_annos.mat")
    content["annotations"][0, 2][field] = value
    savemat(root / "cars_annos.mat", {key: content[key] for key in ("annotations", "class_names")})
    with pytest.raises(ValueError, match=message):
        cars(root, subset=True)


def test_a_list_of_something_else_is_refused(tmp_path):
    root = official.cars_folder_b(tmp_path)
    (root / "devkit" / "cars_test_annos.mat").replace(root / official.LABELED)
    with pytest.raises(ValueError, match=r"withlabels.mat has no 'class' in its annotations: it is not the list of"):
        cars(root, subset=True)
    savemat(root / official.LABELED, {"other": 1})
    with pytest.raises(ValueError, match=r"withlabels.mat is damaged or not the list of Cars-196: annotations cannot"):
        cars(root, subset=True)


def test_a_class_without_a_name_is_refused(tmp_path):
    root = official.cars_folder_b(tmp_path)
    official.write_mat(root / "devkit" / "cars_meta.mat", class_names=official.CARS_NAMES[:195])
    with pytest.raises(ValueError, match=r"has images of the test class 196, but no name for it"):
        cars(root, subset=True)
