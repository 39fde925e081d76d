import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from tcm_bench.functional import pair_counts
from tcm_bench.functional.pair_counts import AllPairs


class Largest(TorchDispatchMode):
    """Remembers the largest tensor made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.numel())
        return out


def random_set(items, classes, seed, dim=4):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(items, dim, dtype=torch.float64, generator=generator)
    return x, torch.randint(classes, (items,), generator=generator)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(3, 30), st.sampled_from(["distance", "similarity"]), st.integers(1, 31), st.integers(0, 2**31))
def test_order_statistics_are_those_of_the_sorted_list(items, axis, chunk, seed):
    x, y = random_set(items, 3, seed)
    x = torch.cat([x, x[: items // 2]])  # repeats: tied ranks and distances of 0
    y = torch.cat([y, (y[: items // 2] + 1) % 3])
    pairs = AllPairs(x, y, axis=axis, chunk_size=chunk)
    negatives = torch.cat([block.negative for block in pairs]).sort().values
    assert len(negatives) == pairs.num_negative
    ranks = sorted({1, len(negatives) // 3 + 1, len(negatives)})
    assert pairs.order_statistics(ranks).equal(negatives[[rank - 1 for rank in ranks]])


def test_each_pair_comes_once_with_its_classes():
    x, y = random_set(17, 4, 0)
    pairs = AllPairs(x, y, axis="similarity", chunk_size=5)
    got = [
        (round(cost, 12), *sorted(ends))
        for block in pairs
        for costs, *sides in (
            (block.positive, block.positive_class, block.positive_class),
            (block.negative, block.negative_first, block.negative_second),
        )
        for cost, *ends in zip(costs.tolist(), *(side.tolist() for side in sides), strict=True)
    ]
    rows = x / x.norm(dim=1, keepdim=True)
    expected = [
        (round(-float(rows[i] @ rows[j]), 12), *sorted((int(y[i]), int(y[j])))) for i in range(17) for j in range(i)
    ]
    assert sorted(got) == sorted(expected)


def test_counts_of_pairs_are_known_from_the_class_sizes():
    x, y = random_set(30, 5, 1)
    counts = AllPairs(x, y, axis="distance", chunk_size=8).counts(torch.tensor([3.0], dtype=torch.float64))
    sizes = y.bincount()
    assert counts.positives.equal(sizes * (sizes - 1) // 2)
    assert counts.negatives.equal(sizes * (30 - sizes))
    assert counts.accepted_positives[:, 0].equal(counts.positives)
    assert counts.accepted_negatives[:, 0].equal(counts.negatives)


def test_no_tensor_grows_with_the_pairs(monkeypatch):
    monkeypatch.setattr(pair_counts, "KEPT_PAIRS", 0)
    x, y = random_set(900, 9, 0)
    with Largest() as largest:
        pairs = AllPairs(x, y, axis="distance", chunk_size=64)
        ends = pairs.order_statistics([1000, 10000])
        pairs.counts(torch.linspace(*ends.tolist(), 11, dtype=torch.float64))
    assert largest.numel == 2 * 2**pair_counts.DIGIT_BITS < pairs.num_pairs


@pytest.mark.parametrize("kept", [0, 2**23])
def test_few_pairs_are_computed_once(kept, monkeypatch):
    monkeypatch.setattr(pair_counts, "KEPT_PAIRS", kept)
    pairs = AllPairs(*random_set(20, 3, 0), axis="distance", chunk_size=10)
    assert (next(iter(pairs)) is next(iter(pairs))) == bool(kept)
