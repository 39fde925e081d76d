import pytest
import reference
import torch

from tcm_bench.losses.pairs import Pairs
from tcm_bench.losses.supap import SupAP, supap
from tcm_bench.losses.tcm import TCM
from tcm_bench.unit_norm import unit_norm

UNEVEN = [3, 0, 0, 1, 3, 3, 2, 0, 3, 4]  # classes of 3, 4 and three lonely items, in any order


def batch(seed, labels):
    x = torch.randn(len(labels), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return unit_norm(x), torch.tensor(labels)


@pytest.mark.parametrize("labels", [UNEVEN, [0, 0, 1, 1], [0, 1, 0, 1, 1]], ids=["uneven", "even", "mixed"])
@pytest.mark.parametrize("settings", [(0.01, 0.05, 100.0), (0.3, 0.2, 2.0), (0.1, 0.0, 0.0)])
def test_loss_matches_the_loop_over_queries(labels, settings):
    x, y = batch(0, labels)
    expected = reference.supap(x.tolist(), labels, *settings)
    assert 0 < float(SupAP(*settings)(Pairs(x, y))) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_bound_of_one_minus_average_precision(seed):
    """Which steep sigmoids give exactly."""
    x, y = batch(seed, UNEVEN)
    assert float(supap(Pairs(x, y))) >= reference.smooth_ap(x.tolist(), UNEVEN, temperature=1e-7)


def test_a_negative_far_ahead_is_still_pushed_where_a_sigmoid_is_flat():
    """Query at 0 degrees, its positive at 90, a negative between them, far ahead for both."""
    angle = torch.tensor([0.0, 90.0, 40.0], dtype=torch.float64).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], dim=1).requires_grad_()
    y = torch.tensor([0, 0, 1])
    pushed, flat = (
        torch.autograd.grad(supap(Pairs(x, y), slope=slope), x)[0][2].norm().item() for slope in (100.0, 0.0)
    )
    assert pushed > 1e-3
    assert flat < 1e-6


def test_the_calibration_is_added():
    pairs = Pairs(*batch(1, UNEVEN))
    calibration = TCM(positive_margin=0.9, negative_margin=0.6)
    assert SupAP(calibration=calibration)(pairs).equal(supap(pairs) + calibration(pairs))
    assert calibration(pairs) > 0


@pytest.mark.parametrize(("argument", "value"), [("temperature", 0.0), ("margin", -0.1), ("slope", -1.0)])
def test_impossible_settings_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be"):
        SupAP(**{argument: value})
