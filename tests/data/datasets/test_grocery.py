import official
import pytest

from tcm_bench.data.datasets.grocery import COUNTS, RANGES, grocery


@pytest.fixture
def root(tmp_path):
    return official.grocery_folder(tmp_path)


def test_the_three_lists_are_pooled_and_split_by_class(root):
    splits = grocery(root, subset=True)
    assert splits.train.class_names == ["Golden-Delicious", "Avocado", "Arla", "Garant"]
    assert splits.test.class_names == ["Oatly", "Leek", "Brown-Cap", "Zucchini"]
    for table in (splits.train, splits.test):
        assert sorted(table.labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 5
        assert {table.image(row).mode for row in range(len(table))} == {"RGB"}
    first, *_, last = splits.test.paths
    assert first == f"{root}/train/Packages/Oatly/Oatly_001.jpg"
    assert last == f"{root}/test/Vegetables/Zucchini/Zucchini_005.jpg"


@pytest.mark.parametrize("odd", ["crlf", "stray"])
def test_odd_copies_hold_the_same(tmp_path, root, odd):
    official.grocery_folder(tmp_path / "odd", **{odd: True})
    assert grocery(tmp_path / "odd", subset=True).fingerprint == grocery(root, subset=True).fingerprint


def test_a_whole_set_has_each_class_of_its_range(tmp_path):
    """Lists of the full size."""
    lines = []
    for side, (classes, images) in COUNTS.items():
        for row in range(images):
            number = RANGES[side][row % classes]
            lines.append(f"train/Fruit/class-{number}/{side}_{row}.jpg, {number}, 0")
    official.write_lines(tmp_path / "train.txt", lines)
    for part in ("val", "test"):
        official.write_lines(tmp_path / f"{part}.txt", [])
    splits = grocery(tmp_path)
    assert (splits.train.num_classes, len(splits.train)) == (41, 3_051)
    assert (splits.test.num_classes, len(splits.test)) == (40, 2_370)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("test/Fruit/Kiwi/new.jpg, 5, 3", r"test.txt has the class 5 both as Avocado and as Kiwi"),
        ("test/Fruit/New/new.jpg, 81, 3", r"the test class 81: Grocery Store knows none of that number"),
        ("test/Fruit/New/new.jpg, many, 3", r"test.txt has 'many' where a number is expected"),
        ("test/Fruit/New/new.jpg, 7", r"has the line .* where `path, fine label, coarse label` is expected"),
        ("new.jpg, 7, 3", r"has the line .* where `path, fine label, coarse label` is expected"),
        ("../New/new.jpg, 7, 3", r"name '../New/new.jpg', which does not lie in"),
        ("train/Fruit/Avocado/Avocado_001.jpg, 5, 2", r"name 'train/Fruit/Avocado/Avocado_001.jpg' more than once"),
    ],
)
def test_a_wrong_line_is_refused(root, line, message):
    with (root / "test.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=message):
        grocery(root, subset=True)


def test_a_part_or_a_copy_without_its_lists_is_named(root, tmp_path):
    with pytest.raises(ValueError, match=r"found 4 train classes in .* where Grocery Store has 41"):
        grocery(root)
    with pytest.raises(ValueError, match=r"`tcm-bench data prepare grocery --root .*nowhere` puts it there"):
        grocery(tmp_path / "nowhere")
    (root / "val.txt").unlink()
    with pytest.raises(ValueError, match=r"val.txt is missing"):
        grocery(root, subset=True)
