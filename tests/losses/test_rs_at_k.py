import math

import pytest
import reference
import torch

from tcm_bench.losses.pairs import Pairs
from tcm_bench.losses.rs_at_k import RSAtK, rs_at_k
from tcm_bench.unit_norm import unit_norm


def batch(seed, labels):
    x = torch.randn(len(labels), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return unit_norm(x), torch.tensor(labels)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    "labels", [[3, 0, 0, 1, 3, 3, 2, 0, 3, 4], [0, 0, 1, 1], [0] * 7 + [1] * 3], ids=["uneven", "even", "large"]
)
@pytest.mark.parametrize(
    "settings",
    [{}, {"ks": (1, 3), "rank_temperature": 0.3, "count_temperature": 0.2}, {"ks": (2,), "count_temperature": 0.05}],
)
def test_loss_matches_the_loop_over_queries(labels, settings):
    x, y = batch(0, labels)
    expected = reference.rs_at_k(x.tolist(), labels, **settings)
    assert 0 < float(RSAtK(**settings)(Pairs(x, y))) == pytest.approx(expected, rel=1e-12)


def test_perfect_pairs_by_hand_without_the_query():
    """The one positive has rank 1, because the query is not retrieved: sigmoid(0) and sigmoid(1)."""
    x = torch.eye(3, dtype=torch.float64).repeat_interleave(2, dim=0)
    loss = rs_at_k(Pairs(x, torch.arange(3).repeat_interleave(2)), ks=(1, 2))
    assert float(loss) == pytest.approx(1 - (0.5 + 0.7310586) / 2, abs=1e-7)


def test_ranks_by_hand():
    """Angles 0, 10, 20, 35, 50 | classes 0 1 0 0 1; steep ranks, k = 2."""
    angle = torch.tensor([0.0, 10.0, 20.0, 35.0, 50.0], dtype=torch.float64).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    ranks = [[2, 3], [4], [2, 3], [1.5, 4], [3]]  # of each query's positives; tied ones share theirs
    recalls = [sum(sigmoid(2 - rank) for rank in row) / min(2, len(row)) for row in ranks]
    loss = rs_at_k(Pairs(x, torch.tensor([0, 1, 0, 0, 1])), ks=(2,), rank_temperature=1e-7)
    assert float(loss) == pytest.approx(1 - sum(recalls) / 5, abs=1e-5)


def test_recall_counts_at_most_k():
    """Six positives of rank about 1 (the sigmoid is wide): their sum exceeds k = 1 and is cut there."""
    x = torch.eye(2, dtype=torch.float64).repeat_interleave(7, dim=0)
    loss = rs_at_k(Pairs(x, torch.arange(2).repeat_interleave(7)), ks=(1,), count_temperature=10.0)
    assert float(loss) == 0.0


@pytest.mark.parametrize(
    ("argument", "value"),
    [("ks", ()), ("ks", (0, 1)), ("rank_temperature", 0.0), ("count_temperature", -1.0)],
)
def test_impossible_settings_are_refused(argument, value):
    with pytest.raises(ValueError, match=argument):
        RSAtK(**{argument: value})
