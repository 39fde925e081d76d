import faiss
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tcm_bench.functional.retrieval import recall_at_k


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


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(1, 41), st.integers(0, 2**31))
def test_recall_is_blind_to_chunks_order_rotation_and_names(items, classes, chunk, seed):
    x, y = table(seed, items=items, dim=5, classes=classes)
    ks = [1, 2, 4]
    score = recall_at_k(x, y, k=ks)
    assert recall_at_k(x, y, k=ks, chunk_size=chunk).equal(score)
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


def test_half_precision_is_taken_to_float32():
    x, y = table(0, dtype=torch.float32)
    half = x.bfloat16()
    assert recall_at_k(half, y, k=1).equal(recall_at_k(half.float(), y, k=1))


@pytest.mark.parametrize("k", [0, -1, [1, 0]])
def test_k_below_one_is_refused(k):
    with pytest.raises(ValueError, match="k must be at least 1"):
        recall_at_k(torch.eye(3), torch.arange(3), k=k)


def test_a_single_item_is_refused():
    with pytest.raises(ValueError, match="at least two items, got 1"):
        recall_at_k(torch.ones(1, 2), torch.zeros(1, dtype=torch.int64))


def test_recall_is_that_of_a_nearest_neighbour_library():
    generator = torch.Generator().manual_seed(3)
    x = torch.nn.functional.normalize(torch.randn(600, 24, generator=generator))
    y = torch.arange(600) % 40
    index = faiss.IndexFlatIP(24)
    index.add(x.numpy())
    neighbors = index.search(x.numpy(), 2)[1]
    nearest = torch.from_numpy(neighbors)
    first = torch.where(nearest[:, 0] == torch.arange(600), nearest[:, 1], nearest[:, 0])
    assert recall_at_k(x, y, k=1) == (y[first] == y).double().mean()
