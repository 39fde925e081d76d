import numpy as np
import official
import pandas as pd
import pytest

from tcm_bench.data.datasets.table_file import table_splits

ROWS = {
    "path": ["a/1.jpg", "a/2.jpg", "/elsewhere/3.jpg", "b/4.jpg", "b/5.jpg", "b/6.jpg", "b/7.jpg"],
    "label": ["x", "y", "u", "u", "v", "v", "u"],
    "split": ["train", "train", *["test"] * 5],
}
MASKS = {  # as open-metric-learning writes them: nothing for training images
    "is_query": [None, None, True, True, True, False, False],
    "is_gallery": [None, None, False, True, False, True, True],
}


@pytest.fixture(params=["csv", "parquet"])
def write(request, tmp_path):
    def written(**columns):
        file = tmp_path / f"table.{request.param}"
        frame = pd.DataFrame(columns)
        if request.param == "csv":
            frame.to_csv(file, index=False)
        else:
            frame.to_parquet(file)
        return file

    return written


def test_paths_labels_and_splits(write):
    file = write(**ROWS, note=[1.5] * 7)
    splits = table_splits(file)
    assert list(splits.train.paths) == [f"{file.parent}/a/1.jpg", f"{file.parent}/a/2.jpg"]
    assert splits.test.paths[0] == "/elsewhere/3.jpg"
    assert list(table_splits(file, root="/images").test.paths)[:2] == ["/elsewhere/3.jpg", "/images/b/4.jpg"]
    assert (splits.train.class_names, splits.test.class_names) == (["x", "y"], ["u", "v"])
    assert splits.test.labels.tolist() == [0, 0, 1, 1, 0]
    assert splits.test.query is splits.test.gallery is splits.train.query is None


def test_query_and_gallery_of_the_test_images(write):
    splits = table_splits(write(**ROWS, **MASKS))
    assert splits.test.query.tolist() == [True, True, True, False, False]
    assert splits.test.gallery.tolist() == [False, True, False, True, True]
    assert splits.test.query.dtype == bool
    assert splits.train.query is splits.train.gallery is None
    alone = table_splits(write(**ROWS, is_query=MASKS["is_query"])).test
    assert (alone.query.tolist(), alone.gallery.tolist()) == (splits.test.query.tolist(), [True] * 5)


@pytest.mark.parametrize("labels", [[1, 2, 10, 10, 3, 3, 10], [1.0, 2.0, 10.0, 10.0, 3.0, 3.0, 10.0]])
def test_whole_numbers_are_labels(tmp_path, labels):
    pd.DataFrame({**ROWS, "label": labels}).to_parquet(tmp_path / "t.parquet")
    splits = table_splits(tmp_path / "t.parquet")
    assert (splits.train.class_names, splits.test.class_names) == (["1", "2"], ["10", "3"])
    assert splits.test.labels.tolist() == [0, 0, 1, 1, 0]


def test_images_are_read(tmp_path):
    root = official.image_folder(tmp_path)
    paths = sorted(path.relative_to(root) for path in root.rglob("*.jpg"))
    lines = [f"{path},{path.parts[1]},{path.parts[0]}" for path in paths]
    official.write_lines(root / "t.csv", ["path,label,split", *lines], crlf=True, bom=True)
    splits = table_splits(root / "t.csv")
    for table, count in ((splits.train, official.COUNTS["train"]), (splits.test, official.COUNTS["test"])):
        assert (table.num_classes, len(table)) == count
        assert {table.image(row).mode for row in range(len(table))} == {"RGB"}


def test_the_hash_of_the_table_names_the_data(write):
    file = write(**ROWS)
    first = table_splits(file).fingerprint
    assert table_splits(file, sha256=first).fingerprint == first
    with pytest.raises(ValueError, match=rf"has sha256 {first} where 0123 is expected"):
        table_splits(file, sha256="0123")
    assert table_splits(write(**{**ROWS, "label": ["x", "y", "u", "u", "v", "v", "v"]})).fingerprint != first


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("path", 4, None, r"row 4 of .*table.* has '' as path: it must not be empty"),
        ("path", 4, "b/5.jpg", r"row 5 of .* has 'b/5.jpg' as path: an earlier row has it too"),
        ("label", 2, None, r"row 2 of .* has '' as label: it must not be empty"),
        ("label", 2, " ", r"row 2 of .* has '' as label: it must not be empty"),
        ("label", 2, "NaN", r"row 2 of .* has 'NaN' as label: it must not be empty"),
        ("label", 6, "x", r"row 6 of .* has 'x' as label: training images show it too"),
        ("label", 2, "x", r".* has 1 train classes where at least 2 are expected"),
        ("split", 1, "validation", r"row 1 of .* has 'validation' as split: it must be train or test"),
        ("split", 7, None, r"row 7 of .* has '' as split: it must not be empty"),
        ("is_query", 3, "maybe", r"row 3 of .* has 'maybe' as is_query: it must be true or false for a test image"),
        ("is_query", 3, None, r"row 3 of .* has '' as is_query: it must be true or false"),
        ("is_query", 7, None, r"row 7 of .* has '' as is_query"),
        ("is_gallery", 6, "False", r"row 5 of .* has 'v' as label: no other image of the gallery"),
        ("is_gallery", 7, "False", r"row 4 of .* has 'u' as label: no other image of the gallery"),
    ],
)
def test_a_wrong_cell_is_named_with_its_row(write, column, row, value, message):
    columns = {name: [None if cell is None else str(cell) for cell in cells] for name, cells in (ROWS | MASKS).items()}
    columns[column][row - 1] = value
    if (column, row) == ("is_gallery", 7):
        columns["is_query"][6] = "True"  # else it would be neither
    if (column, row) == ("is_gallery", 6):
        columns["is_query"][5] = "True"
    with pytest.raises(ValueError, match=message):
        table_splits(write(**columns))


def test_an_image_that_is_neither_query_nor_gallery_is_named(write):
    wrong = {**ROWS, "is_query": MASKS["is_query"], "is_gallery": [None, None, True, True, True, False, True]}
    with pytest.raises(ValueError, match=r"row 6 of .* has '[Ff]alse' as is_query: and is_gallery is false too"):
        table_splits(write(**wrong))


def test_a_table_without_queries_is_refused(write):
    with pytest.raises(ValueError, match=r"has no query: is_query is false in every test row"):
        table_splits(write(**ROWS, is_query=[None, None, *[False] * 5]))


def test_a_missing_column_is_named(write):
    with pytest.raises(ValueError, match=r"needs a column 'split', it has path, label"):
        table_splits(write(path=ROWS["path"], label=ROWS["label"]))


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path):
    pd.DataFrame({**ROWS, "label": [1, 2, 3, 3, 4, 4.5, 3]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"row 6 of .* has '4.5' as label: it must be a text or a whole number"):
        table_splits(tmp_path / "t.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"path,label,split\na,b\n",
        b"PAR1damagedPAR1",
        "path,label,split\na,b,train\n".encode("utf-16"),
        "path,lábel,split\ná,b,train\n".encode("latin-1"),
        b"\x93\xff,label\na,b\n",
        bytes(range(256)) * 9,
    ],
)
def test_what_is_no_table_is_one_sentence(tmp_path, suffix, content):
    file = tmp_path / f"t.{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"t.{suffix} (is no t|needs a column)") as caught:
        table_splits(file)
    assert str(caught.value).isprintable()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*none.csv: set data.file"):
        table_splits(tmp_path / "none.csv")


def test_masks_follow_their_rows_when_splits_are_mixed(write):
    order = np.random.default_rng(0).permutation(7)
    mixed = {name: [cells[row] for row in order] for name, cells in (ROWS | MASKS).items()}
    test = table_splits(write(**mixed)).test
    expected = dict(zip(ROWS["path"], MASKS["is_query"], strict=True))
    assert [expected[test.paths.name(row)] for row in range(5)] == test.query.tolist()
