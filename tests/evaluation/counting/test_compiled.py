import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tcm_bench.evaluation.counting import compiled


@settings(max_examples=50)
@given(
    st.lists(st.integers(-2000, 2000).map(lambda number: number / 1000), min_size=1, max_size=60, unique=True),
    st.sampled_from([1.0, 1e-3, 1e-6, 0.0]),
    st.integers(0, 2**31),
)
def test_a_value_finds_its_place_as_a_search_would(edges, scale, seed):
    center = edges[0]
    edges = np.unique(np.float32(center) + np.float32(scale) * np.array(edges, dtype=np.float32))
    cells = compiled.cells(edges)
    values = np.random.default_rng(seed).uniform(-1, 1, 50).astype(np.float32)
    around = np.concatenate([edges, np.nextafter(edges, np.float32(-3)), np.nextafter(edges, np.float32(3)), values])
    for value in around:
        expected = np.searchsorted(edges, value, side="right")
        assert compiled.place(value, cells) == expected


def test_no_edges_ask_nothing():
    cells = compiled.cells(np.empty(0, dtype=np.float32))
    assert cells[0].tolist() == [np.inf]
    assert compiled.place(np.float32(0.5), cells) == 0


@pytest.mark.parametrize("number", [2**15 - 1, 2**15, 2**16 + 1])
def test_a_table_counts_any_number_of_edges(number):
    edges = np.linspace(-1, 1, number, dtype=np.float32)
    edges = np.unique(edges)
    cells = compiled.cells(edges)
    for value in (np.float32(0.3), np.float32(0.999), edges[-1]):
        assert compiled.place(value, cells) == np.searchsorted(edges, value, side="right")
