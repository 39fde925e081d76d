"""What `tcm-bench data stats` counts."""

from pathlib import Path

import numpy as np
import official
import pytest

from tcm_bench.data.datasets.folder import folder
from tcm_bench.data.table import FeatureTable, ImageArray
from tcm_bench.prepare.summary import histogram, summary


@pytest.fixture
def train(tmp_path):
    return folder(official.image_folder(tmp_path)).train


def test_files_are_counted_and_measured(train):
    seen = []
    found = summary(train, 1, lambda done, total: seen.append((done, total)))
    assert found.images_per_class.tolist() == [4, 4, 4, 5]
    assert len(found.widths) == len(found.heights) == 17
    assert 40 <= found.widths.min() <= found.widths.max() < 60
    assert found.kinds == {"JPEG RGB": 14, "JPEG L": 1, "JPEG CMYK": 1, "PNG P": 1}
    assert found.size_bytes == sum(Path(path).stat().st_size for path in train.paths)
    assert found.unreadable == 0
    assert seen[-1] == (17, 17)


def test_what_cannot_be_read_is_counted_apart(train, tmp_path):
    (tmp_path / "train" / "class 0" / "001.jpg").write_bytes(b"")
    found = summary(train, 1)
    assert found.unreadable == 1
    assert sum(found.kinds.values()) == len(found.widths) == 16
    assert found.widths.min() > 0


def test_pictures_in_archives_have_the_size_of_their_array():
    table = ImageArray(np.array([0, 0, 1]), ["a", "b"], np.zeros((3, 4, 5, 3), dtype=np.uint8))
    found = summary(table)
    assert (found.widths.tolist(), found.heights.tolist()) == ([5, 5, 5], [4, 4, 4])
    assert found.images_per_class.tolist() == [2, 1]
    assert found.size_bytes is None


def test_vectors_have_no_size():
    with pytest.raises(ValueError, match="vectors"):
        summary(FeatureTable(np.zeros(1, dtype=np.int64), ["a"], np.ones((1, 2))))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5], [("5", 1)]),
        ([1, 1, 3], [("1", 2), ("2", 0), ("3", 1)]),
        ([0, 9, 10], [("0–1", 1), ("2–3", 0), ("4–5", 0), ("6–7", 0), ("8–9", 1), ("10", 1)]),
        ([1, 80], [("1–10", 1), *((f"{10 * n + 1}–{10 * n + 10}", 0) for n in range(1, 7)), ("71–80", 1)]),
    ],
)
def test_every_value_is_in_one_bin_and_no_bin_goes_beyond_the_values(values, expected):
    rows = [line.split() for line in histogram(np.array(values))]
    assert [(name, int(count)) for name, count, *_ in rows] == expected
    assert [bool(bar) for _, _, *bar in rows] == [count > 0 for _, count in expected]
