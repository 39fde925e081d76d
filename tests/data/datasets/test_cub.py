import numpy as np
import official
import pytest
from PIL import Image

from tcm_bench.data.datasets import cub as module
from tcm_bench.data.datasets.cub import COUNTS, RANGES, cub


@pytest.fixture
def root(tmp_path):
    return official.cub_folder(tmp_path)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_the_first_hundred_classes_train_the_others_test(root):
    splits = cub(root, subset=True)
    names = list(official.CUB_CLASSES.values())
    assert (splits.train.class_names, splits.test.class_names) == (names[:4], names[4:])
    for table in (splits.train, splits.test):
        assert table.labels.dtype == np.int64
        assert table.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 5
        for path, label in zip(table.paths, table.labels, strict=True):
            assert path.startswith(f"{root}/images/{table.class_names[label]}/")


def test_the_task_of_the_other_split_file_does_not_matter(root):
    before = cub(root, subset=True).fingerprint
    (root / "train_test_split.txt").unlink()
    assert cub(root, subset=True).fingerprint == before


def test_odd_copies_hold_the_same(tmp_path, root):
    expected = cub(root, subset=True)
    odd = official.cub_folder(tmp_path / "odd", stray=True, crlf=True, bom=True)
    for place in (odd, odd.parent):
        found = cub(place, subset=True)
        assert found.fingerprint == expected.fingerprint
        assert found.test.paths[0].startswith(f"{odd}/images/101.")
        assert found.test.labels.tolist() == expected.test.labels.tolist()


def test_every_image_is_rgb(root):
    splits = cub(root, subset=True)
    modes = set()
    for table in (splits.train, splits.test):
        for row, path in enumerate(table.paths):
            found = table.image(row)
            with Image.open(path) as stored:  # its EXIF is not looked at: an image that asks to be turned is not
                assert (found.mode, found.size) == ("RGB", stored.size)
                assert found.tobytes() == stored.convert("RGB").tobytes()
                modes.add(stored.mode)
    assert modes == {"L", "CMYK", "P", "RGB"}


def test_a_part_of_it_is_not_the_benchmark(root):
    with pytest.raises(
        ValueError, match=r"found 4 train classes in .*CUB_200_2011 where CUB-200-2011 has 100"
    ) as caught:
        cub(root)
    assert str(caught.value).endswith("another dataset; data.subset=true trains on the part that is there")


@pytest.mark.parametrize(
    ("side", "count", "message"),
    [
        ("train", (4, 16), "found 17 train images in .* where CUB-200-2011 has 16"),
        ("test", (3, 17), "found 4 test classes in .* where CUB-200-2011 has 3"),
    ],
)
def test_more_than_the_benchmark_has_is_refused_even_of_a_part(root, monkeypatch, side, count, message):
    monkeypatch.setitem(COUNTS, side, count)
    with pytest.raises(ValueError, match=message) as caught:
        cub(root, subset=True)
    assert "data.subset" not in str(caught.value)  # which would not help


def test_a_whole_set_has_each_class_of_its_range(tmp_path):
    """Lists of the benchmark's size: nothing but the benchmark's numbers passes."""
    names = {number: f"{number:03}.Bird_{number}" for number in range(1, 201)}
    images = {"train": 5_864, "test": 5_924}
    rows = [(side, RANGES[side][row % 100]) for side, count in images.items() for row in range(count)]
    lists = {
        "classes.txt": [f"{number} {name}" for number, name in names.items()],
        "images.txt": [f"{row} {names[number]}/{row}.jpg" for row, (_, number) in enumerate(rows, start=1)],
        "image_class_labels.txt": [f"{row} {number}" for row, (_, number) in enumerate(rows, start=1)],
    }
    for name, lines in lists.items():
        official.write_lines(tmp_path / name, lines)
    splits = cub(tmp_path)
    found = {side: (table.num_classes, len(table)) for side, table in vars(splits).items() if side in COUNTS}
    assert found == module.COUNTS == {"train": (100, 5_864), "test": (100, 5_924)}
    assert (splits.train.class_names[-1], splits.test.class_names[0]) == ("100.Bird_100", "101.Bird_101")
    official.write_lines(tmp_path / "images.txt", lists["images.txt"][:-1])
    with pytest.raises(ValueError, match="found 5923 test images"):
        cub(tmp_path)


def test_a_missing_or_damaged_copy_is_named(root, tmp_path):
    with pytest.raises(
        ValueError, match=r"nowhere is not a folder: CUB-200-2011 is expected there; `tcm-bench data prepare cub --"
    ):
        cub(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no images.txt: CUB-200-2011 is expected"):
        cub(tmp_path / "empty")
    for copy in "ab":
        official.cub_folder(tmp_path / "two" / copy)
    with pytest.raises(ValueError, match=r"two holds CUB-200-2011 more than once, in a/CUB_200_2011 and in b/CUB_200"):
        cub(tmp_path / "two")
    (root / "image_class_labels.txt").unlink()
    with pytest.raises(ValueError, match=r"image_class_labels.txt is missing"):
        cub(root)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("image_class_labels.txt", "18 101\n", "", r"image 18 of .*images.txt has no class in image_class_labels.txt"),
        ("image_class_labels.txt", "18 101\n", "18\n", r"has the line '18' where 2 columns are expected"),
        ("image_class_labels.txt", "18 101\n", "18 201\n", r"image 18 of .*images.txt has no class"),
        ("image_class_labels.txt", "18 101\n", "18 1\n", r"101.*but the other lists give it to class 1, 001"),
        ("image_class_labels.txt", "18 101\n", "18 -5\n", r"has '-5' where a number is expected"),
        ("image_class_labels.txt", "18 101\n", "17 101\n", r"has more than one line of number 17"),
        ("images.txt", "18 101.White", "18 102.White", r"has '102.White.*give it to class 101, 101.White_Pelican"),
        (
            "images.txt",
            "/White_Pelican_0001_18.jpg",
            "/../../../x.jpg",
            r"name 'images/101.*x.jpg', which does not lie",
        ),
        ("images.txt", "_0001_18.jpg", "_0002_19.jpg", r"name 'images/101.*_0002_19.jpg' more than once"),
        ("classes.txt", "101 101.", "101 102.", r"give it to class 101, 102.White_Pelican"),
        ("classes.txt", "101 101.White_Pelican\n", "", r"image 18 of .* has no class in .* and classes.txt"),
    ],
)
def test_lists_that_disagree_are_refused(root, file, old, new, message):
    edit(root / file, old, new)
    with pytest.raises(ValueError, match=message):
        cub(root, subset=True)


def test_a_folder_numbered_unlike_its_class_is_refused(root):
    for file in ("images.txt", "classes.txt"):
        (root / file).write_text((root / file).read_text().replace(" 101.", " 103."))
    with pytest.raises(ValueError, match=r"has '103.*but the other lists give it to class 101, 103.White_Pelican"):
        cub(root, subset=True)


def test_a_list_that_is_no_text_is_refused(root):
    (root / "images.txt").write_bytes(b"1 001.a/\xff\xfe.jpg\n")
    with pytest.raises(ValueError, match=r"images.txt is damaged: byte 8 is no text in UTF-8"):
        cub(root, subset=True)


def test_a_class_number_out_of_range_is_refused(root):
    edit(root / "classes.txt", "200 200.", "201 201.")
    for file in ("images.txt", "image_class_labels.txt"):
        text = (root / file).read_text()
        (root / file).write_text(text.replace(" 200.", " 201.").replace(" 200\n", " 201\n"))
    with pytest.raises(ValueError, match=r"has the test class 201: CUB-200-2011 knows none of that number"):
        cub(root, subset=True)
