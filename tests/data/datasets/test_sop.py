import official
import pytest

from tcm_bench.data.datasets.sop import COUNTS, RANGES, sop


@pytest.fixture
def root(tmp_path):
    return official.sop_folder(tmp_path)


def test_the_authors_lists(root):
    splits = sop(root, subset=True)
    assert splits.train.class_names == ["product 1", "product 2", "product 3", "product 11318"]
    assert splits.test.class_names == ["product 11319", "product 11320", "product 11321", "product 22634"]
    for table in (splits.train, splits.test):
        assert table.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 5
        assert {table.image(row).mode for row in range(len(table))} == {"RGB"}
    assert splits.train.paths[8] == f"{root}/toaster_final/111000000003_0.JPG"


@pytest.mark.parametrize("odd", ["header", "crlf", "bom", "blank", "stray"])
def test_odd_copies_hold_the_same(tmp_path, root, odd):
    copy = official.sop_folder(tmp_path / "odd", **{odd: odd != "header"})
    assert sop(copy.parent, subset=True).fingerprint == sop(root, subset=True).fingerprint


def test_a_whole_set_has_each_product_of_its_range(tmp_path):
    """Lists of the benchmark's size: nothing but the benchmark's numbers passes."""
    images = {"train": 59_551, "test": 60_502}
    for side, count in images.items():
        numbers = (RANGES[side][row % len(RANGES[side])] for row in range(count))
        lines = [f"{row} {number} 1 bicycle_final/{side}_{row}.JPG" for row, number in enumerate(numbers)]
        official.write_lines(tmp_path / f"Ebay_{side}.txt", ["image_id class_id super_class_id path", *lines])
    splits = sop(tmp_path)
    assert (splits.train.num_classes, len(splits.train)) == COUNTS["train"] == (11_318, 59_551)
    assert (splits.test.num_classes, len(splits.test)) == COUNTS["test"] == (11_316, 60_502)
    train = (tmp_path / "Ebay_train.txt").read_text()
    (tmp_path / "Ebay_train.txt").write_text(train.replace(" 11318 1 ", " 11319 1 "))
    with pytest.raises(ValueError, match=r"has the train class 11319: Stanford Online Products knows none"):
        sop(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("99 2 12 toaster_final/222_0.JPG", r"1 classes are in train and in test, for example 'product 2'"),
        ("99 11319 1 bicycle_final/111000000001_0.JPG", r"name 'bicycle_final/111000000001_0.JPG' more than once"),
        ("99 11319 1 bicycle_final/111000011319_0.JPG", r"name 'bicycle_final/111000011319_0.JPG' more than once"),
        ("99 11319 1 ../elsewhere.JPG", r"name '../elsewhere.JPG', which does not lie in .*Stanford_Online_Products"),
        ("99 11319 1 /etc/elsewhere.JPG", r"name '/etc/elsewhere.JPG', which does not lie in"),
        (r"99 11319 1 C:\elsewhere.JPG", r"name 'C:.*elsewhere.JPG', which does not lie in"),
        ("99 22635 1 chair_final/1.JPG", r"the test class 22635: Stanford Online Products knows none of that number"),
        ("99 0 1 chair_final/1.JPG", r"the test class 0: Stanford Online Products knows none of that number"),
        ("99 many 1 chair_final/1.JPG", r"Ebay_test.txt has 'many' where a number is expected"),
        ("99 11319", r"Ebay_test.txt has the line '99 11319' where 4 columns are expected"),
    ],
)
def test_a_wrong_line_is_refused(root, line, message):
    with (root / "Ebay_test.txt").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=message):
        sop(root, subset=True)


def test_a_part_or_a_copy_without_its_lists_is_named(root, tmp_path):
    with pytest.raises(ValueError, match=r"found 4 train classes in .* where Stanford Online Products has 11318"):
        sop(root)
    with pytest.raises(ValueError, match=r"nowhere is not a folder: Stanford Online Products is expected there"):
        sop(tmp_path / "nowhere")
    (root / "Ebay_test.txt").write_text("")
    with pytest.raises(ValueError, match=r"found no test image of Stanford Online Products"):
        sop(root, subset=True)
    (root / "Ebay_test.txt").unlink()
    with pytest.raises(ValueError, match=r"Ebay_test.txt is missing"):
        sop(root, subset=True)
