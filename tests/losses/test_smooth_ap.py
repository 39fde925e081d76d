import pytest
import reference
import torch
from pytorch_metric_learning import losses as published

from tcm_bench.losses.pairs import Pairs
from tcm_bench.losses.smooth_ap import SmoothAP, smooth_ap
from tcm_bench.unit_norm import unit_norm


def batch(seed, labels):
    x = torch.randn(len(labels), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return unit_norm(x), torch.tensor(labels)


UNEVEN = [3, 0, 0, 1, 3, 3, 2, 0, 3, 4]  # classes of 3, 4 and three lonely items, in any order


@pytest.mark.parametrize("labels", [UNEVEN, [0, 0, 1, 1], [0, 1, 0, 1, 1]], ids=["uneven", "even", "mixed"])
@pytest.mark.parametrize("temperature", [0.01, 0.3])
def test_loss_matches_the_loop_over_queries(labels, temperature):
    x, y = batch(0, labels)
    expected = reference.smooth_ap(x.tolist(), labels, temperature)
    assert 0 < float(SmoothAP(temperature)(Pairs(x, y))) == pytest.approx(expected, rel=1e-12)


def test_loss_by_hand():
    """Rows at cosines 0.6 (the two of class 0), 0 and 0.8 (to the third, lonely one); temperature 1.

    Sigmoids of 0.2, 0.4, 0.6 and 1: 0.5498340, 0.5986877, 0.6456563, 0.7310586. Query 0 ranks
    itself (in its class before one item with 1 - 0.5986877) and item 1, query 1 likewise.
    """
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]).double()
    first = (1.4013123 / (1.4013123 + 0.2689414) + 1.5986877 / (1.5986877 + 0.3543437)) / 2
    second = (1.5986877 / (1.5986877 + 0.5498340) + 1.4013123 / (1.4013123 + 0.4501660)) / 2
    loss = smooth_ap(Pairs(x, torch.tensor([0, 0, 1])), temperature=1.0)
    assert float(loss) == pytest.approx(1 - (first + second) / 2, abs=1e-6)


@pytest.mark.parametrize(("classes", "per_class"), [(2, 2), (4, 4)])
def test_loss_is_the_published_librarys_where_that_is_right(classes, per_class):
    """It needs as many classes as images per class, sorted, and works in float32."""
    x, y = batch(1, [label for label in range(classes) for _ in range(per_class)])
    expected = published.SmoothAPLoss(temperature=0.05)(x.float(), y)
    torch.testing.assert_close(SmoothAP(0.05)(Pairs(x, y)).float(), expected, rtol=1e-5, atol=1e-6)


def test_perfect_batch_of_96_by_4_has_no_loss():
    x = torch.eye(96).repeat_interleave(4, dim=0)
    assert float(SmoothAP()(Pairs(x, torch.arange(96).repeat_interleave(4)))) == pytest.approx(0, abs=1e-6)


def test_steep_sigmoids_give_the_average_precision():
    """Angles 0, 10, 20, 35, 50 | classes 0 1 0 0 1: average precision counted by hand, query first."""
    angle = torch.tensor([0.0, 10.0, 20.0, 35.0, 50.0], dtype=torch.float64).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], dim=1)
    y = torch.tensor([0, 1, 0, 0, 1])
    precisions = [
        (1 + 2 / 3 + 3 / 4) / 3,  # 0: itself, 1 (wrong), 2, 3
        (1 + 2 / 5) / 2,  # 1: itself, {0, 2} tied and wrong, 3 wrong, 4
        (1 + 2 / 3 + 3 / 4) / 3,  # 2: itself, 1 (wrong), 3, 0
        (1 + 2 / 2.5 + 3 / 5) / 3,  # 3: itself, {2, 4} tied: 2 at 2.5; then 1, 0
        (1 + 2 / 4) / 2,  # 4: itself, 3, 2 (wrong), 1
    ]
    assert float(smooth_ap(Pairs(x, y), temperature=1e-7)) == pytest.approx(1 - sum(precisions) / 5, abs=1e-5)


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature must be above 0"):
        SmoothAP(0.0)
