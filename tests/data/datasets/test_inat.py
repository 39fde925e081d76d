import hashlib

import official
import pytest

from tcm_bench.data.datasets.inat import COUNTS, inat

STYLES = {
    "without the folder": {"prefix": ""},
    "from here": {"prefix": "./train_val2018/"},
    "of another machine": {"prefix": "/data/my images/train_val2018/"},
    "of Windows": {"prefix": "C:/inat/train_val2018/", "backslashes": True, "crlf": True, "bom": True},
    "with labels": {"label": True},
    "with gaps": {"blank": True},
    "of a Mac": {"stray": True},
    "beside the images": {"lists": "."},
    "one level deeper": {"lists": "Inat_dataset_splits/Inat_dataset_splits"},
}


def test_species_of_the_two_lists(tmp_path):
    splits = inat(official.inat_folder(tmp_path), subset=True)
    assert splits.train.class_names == ["Actinopterygii/0", "Insecta/31", "Aves/2999", "Plantae/7001"]
    assert splits.test.class_names == ["Aves/3001", "Plantae/5000", "Plantae/5690", "Reptilia/8141"]
    for table in (splits.train, splits.test):
        assert table.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 5
        assert {table.image(row).mode for row in range(len(table))} == {"RGB"}
    assert splits.test.paths[0] == f"{tmp_path}/train_val2018/Aves/3001/{18:032x}.jpg"


def test_the_fingerprint_is_that_of_the_lines(tmp_path):
    splits = inat(official.inat_folder(tmp_path), subset=True)
    digest = hashlib.sha256()
    for side, table in (("train", splits.train), ("test", splits.test)):
        for row, label in enumerate(table.labels):
            digest.update(f"{side}\t{table.paths.name(row)}\t{table.class_names[label]}\n".encode())
    assert splits.fingerprint == digest.hexdigest()


@pytest.mark.parametrize("style", STYLES)
def test_lists_of_all_styles_hold_the_same(tmp_path, style):
    expected = inat(official.inat_folder(tmp_path / "plain"), subset=True)
    found = inat(official.inat_folder(tmp_path / "odd", **STYLES[style]), subset=True)
    assert found.fingerprint == expected.fingerprint
    assert found.train.labels.tolist() == expected.train.labels.tolist()
    assert found.train.image(3).size == expected.train.image(3).size


def test_images_are_found_in_a_folder_of_the_same_name_and_below_the_parent(tmp_path):
    root = official.inat_folder(tmp_path / "inat")
    (root / "train_val2018").rename(root / "inner")
    (root / "train_val2018").mkdir()
    (root / "inner").rename(root / "train_val2018" / "train_val2018")
    assert inat(tmp_path, subset=True).test.image(16).mode == "RGB"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_val2018/Aves/3001", r"has the line 'train_val2018/Aves/3001' where train_val2018/<group>/<species>"),
        ("train_val2018/Aves/3001/", r"has the line 'train_val2018/Aves/3001/' where"),
        ("train_val2018/Aves/Gull/1.jpg", r"has the line 'train_val2018/Aves/Gull/1.jpg' where"),
        ("train_val2018/a/../../3001/1.jpg", r"has the line 'train_val2018/a/../../3001/1.jpg' where"),
        ("train_val2018/../3001/1.jpg", r"test_set1.txt has the species 3001 both as Aves/3001 and as ../3001"),
        ("../4000/1.jpg", r"name 'train_val2018/../4000/1.jpg', which does not lie in"),
        ("/etc/3001/1.jpg", r"has the line '/etc/3001/1.jpg' where"),
        ("train_val2018/Insecta/3001/1.jpg", r"has the species 3001 both as Aves/3001 and as Insecta/3001"),
        ("train_val2018/Aves/2999/1.jpg", r"1 classes are in train and in test, for example 'Aves/2999'"),
        ("train_val2018/Aves/8142/1.jpg", r"has the test class 8142: iNaturalist-2018 knows none of that number"),
        (f"train_val2018/Aves/3001/{18:032x}.jpg", r"name 'train_val2018/Aves/3001/0.*.jpg' more than once"),
    ],
)
def test_a_wrong_line_is_refused(tmp_path, line, message):
    root = official.inat_folder(tmp_path)
    with (root / "Inat_dataset_splits" / "Inaturalist_test_set1.txt").open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=message):
        inat(root, subset=True)


def test_a_part_or_a_copy_without_its_lists_is_named(tmp_path):
    root = official.inat_folder(tmp_path)
    with pytest.raises(ValueError, match=r"found 4 train classes in .* where iNaturalist-2018 has 5690"):
        inat(root)
    with pytest.raises(ValueError, match=r"nowhere is not a folder: iNaturalist-2018 is expected there"):
        inat(root / "nowhere")
    (root / "Inat_dataset_splits" / "Inaturalist_test_set1.txt").unlink()
    with pytest.raises(ValueError, match=r"Inaturalist_test_set1.txt is missing"):
        inat(root)


def test_the_whole_index_is_the_benchmark_and_holds_no_object_for_each_image(tmp_path):
    """What it takes is measured by tests/benchmarks/inat_index.py."""
    first = 0
    for side, (classes, images) in COUNTS.items():
        lines = [f"train_val2018/Group/{first + row % classes}/{row:08}.jpg" for row in range(images)]
        official.write_lines(tmp_path / f"Inaturalist_{side}_set1.txt", lines)
        first += classes
    splits = inat(tmp_path)
    assert (splits.train.num_classes, len(splits.train)) == (5_690, 325_846)
    assert (splits.test.num_classes, len(splits.test)) == (2_452, 136_093)
    paths = splits.train.paths
    assert {type(value).__name__ for value in vars(paths).values()} == {"str", "bytes", "ndarray"}
    assert paths[325_845] == f"{tmp_path}/train_val2018/Group/{325_845 % 5_690}/00325845.jpg"
