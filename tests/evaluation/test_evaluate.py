import math

import numpy as np
import pytest
import reference
import torch
from brute_force import KINDS, BruteForce, drawn

from tcm_bench.evaluation.evaluate import evaluate
from tcm_bench.evaluation.retrieval import precision_at_r, recall_at_k

AXES = ["distance", "similarity"]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("kind", KINDS)
def test_everything_matches_an_independent_brute_force(kind, axis):
    """Plain float64 lists that share no code: counts may differ only where two pairs tie, and there they do not."""
    x, y = drawn(kind, 60, 7, 6, seed=3)
    bounds, num_thresholds, eps = (0.05, 0.5), 9, 0.4
    result = evaluate(x, y, ks=(1, 2, 5), axis=axis, far_bounds=bounds, num_thresholds=num_thresholds, eps=eps)
    rows, labels = x.double().tolist(), y.tolist()
    if kind not in ("ties", "duplicates", "identical", "one-hot"):  # where sums rounded in one order break ties
        assert result.recall.tolist() == [reference.recall_at_k(rows, labels, k) for k in (1, 2, 5)]
    pairs = reference.pair_table(rows, labels, axis)
    low, high = reference.calibration_range(pairs, bounds, axis)
    found = result.consistency
    if kind in ("ties", "duplicates", "identical", "one-hot"):
        # A float64 square root of 2 - 2 cos is as far off as 1e-8 at 0.
        assert (found.threshold_low, found.threshold_high) == pytest.approx((low, high), abs=3e-8)
        return
    grid = reference.grid(low, high, num_thresholds)
    curves = reference.utility_curves(pairs, labels, grid, axis=axis)
    rel = 1e-5 if kind == "collapsed" else 1e-9  # all distances are near 1e-4, and so is the error of their square
    assert (found.threshold_low, found.threshold_high) == pytest.approx((low, high), rel=rel)
    assert found.opis == pytest.approx(reference.opis(curves, grid), rel=rel)
    assert found.eps_opis == pytest.approx(reference.eps_opis(curves, grid, eps), rel=rel)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("roles", [False, True])
def test_counts_by_class_and_rates_match_the_brute_force(roles, axis):
    x, y = drawn("duplicates", 90, 5, 8)
    items = torch.arange(90)
    chosen = {"query": items % 3 > 0, "gallery": items % 4 > 0} if roles else {}
    brute = BruteForce(x, y, axis, **chosen)
    levels = (0.5, 0.02, 0.25)
    result = evaluate(x, 10 * y - 20, ks=(1, 3), axis=axis, far_levels=levels, **chosen)
    assert result.classes.tolist() == (10 * y - 20).unique().tolist()
    asked = chosen.get("query", torch.ones(90, dtype=torch.bool))
    rank = brute.rank_of_first_positive(3)
    for row, label in enumerate(y.unique()):
        mine = asked & (y == label)
        assert int(result.queries[row]) == int(mine.sum())
        assert result.hits[row].tolist() == [int((rank[mine] < k).sum()) for k in (1, 3)]
    assert result.recall.tolist() == pytest.approx([float((rank[asked] < k).double().mean()) for k in (1, 3)])
    positive = brute.cost[brute.pair & brute.same]
    for level in levels:
        cost = brute.negatives[math.ceil(level * len(brute.negatives)) - 1]
        assert result.tar_at_far[level] == float((positive <= cost).double().mean())
    negatives = result.consistency.curves.accepted_negatives
    increasing = result.consistency.thresholds if axis == "distance" else -result.consistency.thresholds.flip(0)
    assert (negatives if axis == "distance" else negatives.flip(1)).equal(brute.accepted(increasing)[1])


@pytest.mark.parametrize("axis", ["distance", "similarity", "far"])
def test_the_calibration_range_begins_at_the_same_cosine_on_every_axis(axis):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 6)
    x = rng.normal(size=(20, 16))[labels] + rng.normal(size=(120, 16))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    negative = np.sort((x @ x.T)[labels[:, None] < labels])[::-1]
    found = evaluate(x, labels, axis=axis, far_bounds=(0.02, 0.1))
    assert found.strictest_cosine == pytest.approx(negative[math.ceil(0.02 * len(negative)) - 1], abs=1e-9)


def test_parts_are_those_of_the_single_functions():
    x, y = drawn("clustered", 80, 6, 9)
    result = evaluate(x, y, ks=(1, 4), eps=0.3)
    assert result.recall.equal(recall_at_k(x, y, k=(1, 4)))
    alone = evaluate(x, y, ks=(), eps=0.3).consistency
    assert (result.consistency.opis, result.consistency.eps_opis) == (alone.opis, alone.eps_opis)
    assert result.consistency.utilities.equal(alone.utilities)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_and_torch_give_the_same_bits(dtype):
    x, y = drawn("clustered", 50, 6, 5)
    x = x.numpy().astype(dtype)
    a, b = evaluate(x, y.numpy(), query=(y < 4).numpy()), evaluate(torch.from_numpy(x), y, query=y < 4)
    assert a.recall.equal(b.recall)
    assert (a.consistency.threshold_low, a.consistency.opis) == (b.consistency.threshold_low, b.consistency.opis)


def test_views_that_are_not_contiguous_are_read():
    x, y = drawn("clustered", 50, 6, 5)
    expected = evaluate(x, y, query=y > 0)
    wide, doubled = torch.cat([x, x], dim=1), y.repeat_interleave(2)
    got = evaluate(wide[:, :6], doubled[::2], query=(doubled > 0)[::2])
    assert got.hits.equal(expected.hits)
    assert got.consistency.opis == expected.consistency.opis


@pytest.mark.parametrize(
    ("labels", "recall", "rates", "reason"),
    [
        ([3, 3], 1.0, math.nan, "no negative pair"),
        ([3, -3], 0.0, math.nan, "no positive pair"),
        ([1, 1, 1, 1], 1.0, math.nan, "no negative pair"),
        ([1, 2, 3, 4], 0.0, math.nan, "no positive pair"),
        ([1, 1, 2, 2], 0.5, 1.0, "degenerate calibration range"),
    ],
)
def test_sets_at_the_edge_are_defined(labels, recall, rates, reason):
    result = evaluate(torch.ones(len(labels), 3), torch.tensor(labels), far_levels=(0.5,))
    assert float(result.recall[0]) == recall
    assert result.tar_at_far[0.5] == pytest.approx(rates, nan_ok=True)
    assert math.isnan(result.consistency.opis)
    assert reason in result.consistency.reason
    assert int(result.queries.sum()) == len(labels)


def test_without_a_query_recall_is_undefined():
    result = evaluate(torch.eye(3), torch.tensor([0, 0, 1]), ks=(1,), query=torch.zeros(3, dtype=torch.bool))
    assert result.recall.isnan().all()
    assert result.hits.tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ks": (1, 0)}, "k must be at least 1"),
        ({"far_levels": (0.1, 0.0)}, "far_levels must be rates"),
        ({"far_levels": (1.5,)}, "far_levels must be rates"),
        ({"num_thresholds": 1}, "num_thresholds must be at least 2"),
        ({"far_bounds": (0.5, 0.1)}, "far_bounds must be two rates"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(torch.eye(3), torch.arange(3), **arguments)


def test_a_single_item_is_refused():
    with pytest.raises(ValueError, match="at least two items, got 1"):
        evaluate(torch.ones(1, 2), torch.tensor([0]))


def test_a_row_that_cannot_be_normalized_is_named():
    x = torch.ones(4, 2)
    x[2] = torch.inf
    with pytest.raises(ValueError, match="row 2 has norm inf"):
        evaluate(x, torch.tensor([5, 4, 3, 2]))


@pytest.mark.parametrize("axis", ["distance", "similarity"])
@pytest.mark.parametrize("vectors", [(5, 512), (8, 128), (5, 32)])
def test_copies_of_a_few_vectors_are_at_distance_0(vectors, axis):
    """Rounding of a row's norm must not tell its copies apart: the range would be one of noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*vectors, generator=generator)[torch.randint(vectors[0], (300,), generator=generator)]
    found = evaluate(x, torch.randint(20, (300,), generator=generator), axis=axis).consistency
    assert (found.threshold_low, found.threshold_high) == ((0.0, 0.0) if axis == "distance" else (1.0, 1.0))
    assert math.isnan(found.opis)
    assert "degenerate" in found.reason


@pytest.mark.parametrize("role", ["query", "gallery"])
def test_a_mask_of_another_length_is_refused(role):
    x, y = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    with pytest.raises(ValueError, match=f"{role} must say true or false of each of the 6 items"):
        evaluate.__wrapped__(x, y, **{role: torch.ones(6, dtype=torch.int64)})


@pytest.mark.parametrize("metric", [recall_at_k, precision_at_r])
def test_retrieval_alone_refuses_the_same(metric):
    x, y = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    with pytest.raises(ValueError, match="query must say true or false of each of the 6 items"):
        metric.__wrapped__(x, y, query=torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"labels \(items,\), got \(6, 3\) and \(5,\)"):
        metric.__wrapped__(x, y[:5])
    with pytest.raises(ValueError, match=r"labels must be integers, got torch\.float32"):
        metric.__wrapped__(x, y.float())


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_any_numpy_array_is_taken(dtype):
    x, y = np.random.default_rng(0).normal(size=(40, 8)), np.arange(40) % 7
    expected = evaluate(x, y)
    found = evaluate(x[::-1], y[::-1].astype(dtype))  # negative strides
    assert found.consistency.opis == expected.consistency.opis
    assert found.classes.equal(expected.classes)


@pytest.mark.parametrize("k", [1, 3, 4, 500])
def test_a_query_without_a_positive_misses_at_any_k(k):
    x, y = torch.eye(4), torch.tensor([0, 1, 2, 2])
    found = evaluate(x, y, ks=(k,))
    assert found.recall.tolist() == [recall_at_k(x, y, k=k)] == [0.5 if k >= 3 else found.hits[2, 0] / 4]
    assert found.hits[:2].eq(0).all()


def test_rows_too_short_for_float64_are_refused():
    x = torch.randn(6, 3, dtype=torch.float64) * 1e-160
    with pytest.raises(ValueError, match=r"row 0 has norm .* above 1e-150"):
        evaluate(x, torch.tensor([0, 0, 1, 1, 2, 2]))


def test_a_query_that_meets_nothing_is_named():
    x, y = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    first = torch.tensor([True, False] * 3)
    assert evaluate(x, y, query=first, gallery=first).consistency.reason == (
        "no positive pair: no query meets another item of its class"
    )
    lone = y == 0
    assert evaluate(x, y, query=lone, gallery=lone).consistency.reason == (
        "no negative pair: no query meets an item of another class"
    )


def test_a_callers_default_dtype_changes_nothing():
    x, y = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 9
    before = evaluate(x, y).consistency.opis
    torch.set_default_dtype(torch.float64)
    try:
        assert evaluate(x, y).consistency.opis == before
    finally:
        torch.set_default_dtype(torch.float32)
