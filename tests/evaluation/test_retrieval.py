import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from tcm_bench.evaluation import retrieval
from tcm_bench.evaluation.neighbors import nearest_neighbors
from tcm_bench.evaluation.retrieval import precision_at_r, recall_at_k


def table(seed, items=24, dim=3, classes=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (items,), generator=generator)
    return torch.randn(items, dim, dtype=dtype, generator=generator), labels


@pytest.mark.parametrize("seed", range(4))
def test_recall_matches_the_sorted_list_of_neighbors(seed):
    x, y = table(seed)
    ks = [1, 2, 3, 8, 22, 23, 24, 100]
    expected = [reference.recall_at_k(x.tolist(), y.tolist(), k) for k in ks]
    assert recall_at_k(x, y, k=ks).tolist() == expected
    assert [float(recall_at_k(x, y, k=k)) for k in ks] == expected


def test_recall_by_hand():
    """Angles 0, 10, 30, 45, 180: nearest neighbors 1, 0, 3, 2, 3."""
    angle = torch.tensor([0.0, 10.0, 30.0, 45.0, 180.0], dtype=torch.float64).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    y = torch.tensor([0, 0, 0, 1, 1])
    # hits at 1: items 0, 1 and 4; at 2: item 2 finds item 1; item 3 (order 2, 1, 0, 4) needs 4
    assert recall_at_k(x, y, k=(1, 2, 3, 4)).tolist() == [3 / 5, 4 / 5, 4 / 5, 1.0]


def test_of_equal_neighbors_the_lower_index_wins_and_the_query_is_removed_by_index():
    x = torch.ones(3, 2, dtype=torch.float64)
    assert recall_at_k(x, torch.tensor([0, 1, 0]), k=[1, 2]).tolist() == [1 / 3, 2 / 3]
    assert recall_at_k(x, torch.tensor([0, 0, 1]), k=[1, 2]).tolist() == [2 / 3, 2 / 3]


@pytest.mark.parametrize("seed", range(3))
def test_ties_among_repeated_images_follow_the_rule(seed):
    x, y = table(seed, items=12, classes=4)
    x = x.repeat(2, 1)
    y = torch.cat([y, y.roll(1)])
    for k in (1, 2, 5):
        assert float(recall_at_k(x, y, k=k)) == reference.recall_at_k(x.tolist(), y.tolist(), k)


@settings(max_examples=25)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(1, 41), st.integers(0, 2**31))
def test_recall_is_blind_to_tiles_order_rotation_and_names(items, classes, side, seed):
    x, y = table(seed, items=items, dim=5, classes=classes)
    ks = [1, 2, 4]
    score = recall_at_k(x, y, k=ks)
    assert recall_at_k(x, y, k=ks, tile=(side, 7)).equal(score)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(items, generator=generator)
    assert recall_at_k(x[order], y[order], k=ks).equal(score)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=generator)).Q
    assert recall_at_k(x @ rotation, y, k=ks).equal(score)
    assert recall_at_k(3 * x, 10 - y, k=ks).equal(score)
    assert (score.diff() >= 0).all()


def test_smallest_sets():
    x = torch.eye(2)
    assert recall_at_k(x, torch.tensor([0, 0]), k=[1, 5]).tolist() == [1.0, 1.0]
    assert recall_at_k(x, torch.tensor([0, 1]), k=[1, 5]).tolist() == [0.0, 0.0]


def test_a_lonely_query_never_hits():
    assert float(recall_at_k(torch.eye(3), torch.tensor([0, 0, 1]), k=1000)) == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_any_type_is_searched_as_the_numbers_it_holds(dtype):
    x, y = table(0, items=60)
    x = x.to(dtype)
    ks = [1, 2, 5]
    expected = [reference.recall_at_k(x.double().tolist(), y.tolist(), k) for k in ks]
    assert recall_at_k(x, y, k=ks).tolist() == expected


@pytest.mark.parametrize("k", [0, -1, [1, 0]])
def test_k_below_one_is_refused(k):
    with pytest.raises(ValueError, match="k must be at least 1"):
        recall_at_k(torch.eye(3), torch.arange(3), k=k)


def test_a_single_item_is_refused():
    with pytest.raises(ValueError, match="at least two items, got 1"):
        recall_at_k(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))


def test_recall_is_that_of_a_nearest_neighbor_library():
    x, y = table(3, items=600, dim=24, classes=40, dtype=torch.float32)
    _, nearest = nearest_neighbors(x, 4)
    hits = (y[nearest] == y[:, None]).double().cumsum(dim=1) > 0
    assert recall_at_k(x, y, k=[1, 2, 3, 4]).equal(hits.double().mean(dim=0))


def roles(seed, items):
    generator = torch.Generator().manual_seed(seed)
    query, gallery = (torch.rand(items, generator=generator) < 0.5 for _ in range(2))
    query[0] = True
    return query, gallery


@pytest.mark.parametrize("seed", range(3))
def test_recall_of_queries_in_a_gallery_matches_the_sorted_list(seed):
    x, y = table(seed, items=40)
    x[20:] = x[:20]  # duplicates on both sides
    query, gallery = roles(seed, 40)
    for k in (1, 2, 6):
        expected = reference.recall_at_k(x.tolist(), y.tolist(), k, query.tolist(), gallery.tolist())
        assert float(recall_at_k(x, y, k=k, query=query, gallery=gallery)) == expected


def test_recall_without_a_query_is_refused():
    with pytest.raises(ValueError, match="at least one query"):
        recall_at_k(torch.eye(3), torch.arange(3), query=torch.zeros(3, dtype=torch.bool))


# -- mAP@R and R-precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_precision_at_r_matches_the_sorted_list(seed, chosen, repeats, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 200)
    monkeypatch.setattr(retrieval, "COLUMNS", 7)
    x, y = table(seed, items=36 // repeats)
    x, y = x.repeat(repeats, 1), torch.cat([y.roll(shift) for shift in range(repeats)])
    y[5] = 100  # nothing to find
    masks = roles(seed, len(y)) if chosen else (None, None)
    expected = reference.precision_at_r(
        x.tolist(), y.tolist(), *(mask if mask is None else mask.tolist() for mask in masks)
    )
    got = precision_at_r(x, y, query=masks[0], gallery=masks[1])
    assert [float(value) for value in got] == pytest.approx(expected, rel=1e-14)


def test_precision_at_r_by_hand():
    """Angles 0, 10, 30, 45, 180 of classes a a a b b: R is 2 for a, 1 for b.

    Query 0 finds 1 2: both. 1 finds 0 2: both. 2 finds 3 (15 degrees) 1: P(2) = 1/2. 3 finds 2: none. 4 finds 3.
    """
    angle = torch.tensor([0.0, 10.0, 30.0, 45.0, 180.0], dtype=torch.float64).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    got = precision_at_r(x, torch.tensor([0, 0, 0, 1, 1]))
    assert [float(value) for value in got] == pytest.approx([(1 + 1 + 1 / 4 + 0 + 1) / 5, (1 + 1 + 1 / 2 + 0 + 1) / 5])


def test_precision_at_r_is_that_of_pytorch_metric_learning():
    x, y = table(5, items=200, dim=16, classes=30, dtype=torch.float32)
    y[-1] = 1000
    x = torch.nn.functional.normalize(x)
    calculator = AccuracyCalculator(
        include=("mean_average_precision_at_r", "r_precision"), k="max_bin_count", device=torch.device("cpu")
    )
    expected = calculator.get_accuracy(x, y)
    got = precision_at_r(x, y)
    assert float(got.map_at_r) == pytest.approx(expected["mean_average_precision_at_r"], rel=1e-12)
    assert float(got.r_precision) == pytest.approx(expected["r_precision"], rel=1e-12)


@pytest.mark.parametrize("labels", [[0, 1, 2], [5, 5, 5]])
def test_precision_at_r_of_sets_at_the_edge(labels):
    got = precision_at_r(torch.ones(3, 2), torch.tensor(labels))
    assert all(value.isnan() if labels[0] == 0 else value == 1 for value in got)
    nobody = precision_at_r(torch.ones(3, 2), torch.tensor(labels), query=torch.zeros(3, dtype=torch.bool))
    assert all(value.isnan() for value in nobody)
    nothing = precision_at_r(torch.ones(3, 2), torch.tensor(labels), gallery=torch.zeros(3, dtype=torch.bool))
    assert all(value.isnan() for value in nothing)


def test_precision_at_r_names_the_row_it_cannot_normalize():
    x = torch.ones(3, 2)
    x[1] = torch.nan
    with pytest.raises(ValueError, match="row 1"):
        precision_at_r(x, torch.tensor([2, 1, 0]))
