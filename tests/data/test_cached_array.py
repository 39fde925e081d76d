"""Arrays on disk. How they survive kills, full disks and rivals is tested by way of features: test_features.py."""

import json

import numpy as np
import pytest

from tcm_bench.data.cached_array import cached_array


def cached(folder, blocks, description=None, dtype="|u1", shape=(6,), **settings):
    return cached_array(
        "numbers", folder, description or {"of": 1}, shape, dtype, lambda: iter(blocks), items=len(blocks), **settings
    )


@pytest.mark.parametrize("dtype", ["|u1", "<f4", "<i8"])
def test_blocks_become_one_array_of_the_stated_type(tmp_path, dtype):
    file = cached(tmp_path / "new" / "folder", [np.array([1, 2, 3]), np.array([4]), np.array([5, 6])], dtype=dtype)
    found = np.load(file)
    assert found.dtype == np.dtype(dtype)
    assert found.tolist() == [1, 2, 3, 4, 5, 6]


def test_the_description_names_the_file(tmp_path):
    one = cached(tmp_path, [np.arange(6)], {"a": 1, "b": 2})
    assert cached(tmp_path, [], {"b": 2, "a": 1}) == one
    assert cached(tmp_path, [np.arange(6)], {"a": 1, "b": 3}) != one


def test_items_are_counted_as_told_and_facts_are_recorded(tmp_path):
    steps = []
    file = cached(
        tmp_path,
        [np.arange(4), np.arange(2)],
        items_in=lambda block: 1,
        facts={"threads": 3},
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(0, 2), (1, 2), (2, 2)]
    sidecar = json.loads(file.with_suffix(".json").read_text())
    assert sidecar["threads"] == 3
    assert sidecar["shape"] == [6]
    assert sidecar["of"] == {"of": 1}


def test_a_file_of_another_shape_is_made_again(tmp_path, caplog):
    cached(tmp_path, [np.arange(6)])
    file = cached(tmp_path, [np.arange(7)], shape=(7,))
    assert np.load(file).shape == (7,)
    assert "are damaged" in caplog.text
