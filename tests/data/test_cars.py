from pathlib import Path

import pytest

from tcm_bench.data.cars import cars

COUNTS = {"train": (2, 3), "test": (2, 3)}


def test_one_list(cars_root_a):
    splits = cars(cars_root_a, COUNTS)
    check_classes(splits)
    assert [Path(path).name for path in splits.train.paths] == ["000001.jpg", "000002.jpg", "000005.jpg"]
    assert [Path(path).name for path in splits.test.paths] == ["000003.jpg", "000004.jpg", "000006.jpg"]


def test_train_and_test_folders_are_merged(cars_root_b):
    splits = cars(cars_root_b, COUNTS)
    check_classes(splits)
    names = [
        [(Path(path).parent.name, Path(path).name) for path in table.paths] for table in (splits.train, splits.test)
    ]
    assert names[0] == [("cars_train", "00001.jpg"), ("cars_train", "00002.jpg"), ("cars_test", "00002.jpg")]
    assert names[1] == [("cars_train", "00003.jpg"), ("cars_test", "00001.jpg"), ("cars_test", "00003.jpg")]


def check_classes(splits):
    assert splits.train.class_names == ["Maker Model 1/Type Coupe 2001", "Maker Model 98/Type Coupe 2098"]
    assert splits.test.class_names == ["Maker Model 99/Type Coupe 2099", "Maker Model 196/Type Coupe 2096"]
    assert splits.train.labels.tolist() == [0, 1, 1]
    assert splits.test.labels.tolist() == [0, 1, 0]
    for table in (splits.train, splits.test):
        assert {table.image(row).size for row in range(len(table))} == {(9, 7)}


def test_a_missing_list_is_named(cars_root_b, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere holds neither cars_annos.mat nor devkit/: Cars-196 is expected"):
        cars(tmp_path / "nowhere")
    (cars_root_b / "devkit" / "cars_train_annos.mat").unlink()
    with pytest.raises(ValueError, match=r"cars_train_annos.mat is missing: it is one of the lists of Cars-196"):
        cars(cars_root_b)


def test_other_counts_are_refused(cars_root_a):
    with pytest.raises(ValueError, match=r"found 2 train classes in .* where Cars-196 has 98"):
        cars(cars_root_a, {"train": (98, 8054), "test": (98, 8131)})
