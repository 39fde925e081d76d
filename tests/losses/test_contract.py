"""What every loss promises. A new yaml in ``conf/loss`` or ``conf/tcm`` is enrolled by existing."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from largest import Largest
from omegaconf import OmegaConf
from waits import Waits

from tcm_bench.losses.objective import Objective
from tcm_bench.losses.pairs import Pairs
from tcm_bench.losses.rs_at_k import rs_at_k
from tcm_bench.losses.smooth_ap import smooth_ap
from tcm_bench.losses.supap import supap
from tcm_bench.losses.tcm import TCM, tcm_terms
from tcm_bench.unit_norm import unit_norm

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = [(group, path.stem) for group in ("loss", "tcm") for path in sorted((CONF / group).glob("*.yaml"))]
OWN = [option for option in OPTIONS if option[1] in ("smooth_ap", "rs_at_k", "supap", "paper", "none")]
CLASSES, DIM = 6, 8
CHOSEN = {"positive_margin": 0.8, "negative_margin": 0.4, "positive_weight": 1.0, "negative_weight": 0.3}
AROUND = {
    "data": {"num_train_classes": CLASSES},
    "model": {"head": {"embedding_dim": DIM}},
    "chosen": {"temperature": 0.01, **CHOSEN},
}


def tcm_loss(pairs):
    return tcm_terms(pairs).loss


def load(group, name):
    cfg = OmegaConf.load(CONF / group / f"{name}.yaml")
    return OmegaConf.merge(*(load(group, base) for base in cfg.pop("defaults", [])), cfg)


def build(option):
    torch.manual_seed(0)
    cfg = OmegaConf.create(AROUND | {"it": load(*option)})
    return instantiate(cfg.it, _convert_="all").double()


@pytest.fixture(params=OPTIONS, ids="/".join)
def loss(request):
    return build(request.param)


def batch(labels, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(labels))
    y = torch.tensor(labels)
    x = torch.randn(CLASSES, DIM, dtype=torch.float64, generator=generator)[y]
    x = x + 0.7 * torch.randn(len(labels), DIM, dtype=torch.float64, generator=generator)
    return unit_norm(x).to(dtype), y


MIXED = [0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 5]
COMPOSITIONS = {
    "mixed": MIXED,
    "no positive": [0, 1, 2, 3],
    "no negative": [2, 2, 2],
    "lonely classes": [0, 1, 1, 2],
    "one item": [4],
}


def test_all_options_are_enrolled():
    assert {"loss/smooth_ap", "loss/rs_at_k", "tcm/paper", "tcm/none"} <= {"/".join(option) for option in OPTIONS}


@pytest.mark.parametrize("labels", COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_any_composition_gives_a_finite_scalar_with_a_graph(loss, labels):
    x, y = batch(labels)
    value = loss(Pairs(x.requires_grad_(), y))
    assert value.shape == ()
    assert value.isfinite()
    (gradient,) = torch.autograd.grad(value, x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("option", OWN, ids="/".join)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [4]], ids=["no positive", "one item"])
def test_without_positives_there_is_nothing_to_rank(option, labels):
    x, y = batch(labels)
    x = torch.eye(DIM, dtype=torch.float64)[: len(labels)].requires_grad_()  # and no hard negative
    value = build(option)(Pairs(x, y))
    assert value.item() == 0.0
    assert torch.autograd.grad(value, x)[0].equal(torch.zeros_like(x))


@pytest.mark.parametrize("name", ["smooth_ap", "rs_at_k", "supap"])
def test_without_negatives_a_ranking_loss_is_0(name):
    x, y = batch([2, 2, 2])
    value = build(("loss", name))(Pairs(x.requires_grad_(), y))
    assert value.item() == 0.0
    assert torch.autograd.grad(value, x)[0].equal(torch.zeros_like(x))


def test_gradient_matches_finite_differences(loss):
    x, y = batch(MIXED)
    assert torch.autograd.gradcheck(lambda x: loss(Pairs(x, y)), x.requires_grad_())


def test_order_of_the_batch_does_not_matter(loss):
    x, y = batch(MIXED)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loss(Pairs(x[order], y[order])), loss(Pairs(x, y)))


def test_names_of_classes_and_rotations_do_not_matter_without_proxies(loss):
    x, y = batch(MIXED)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    changed = loss(Pairs(x @ rotation, 40 - y)) if not list(loss.parameters()) else loss(Pairs(x, y))
    torch.testing.assert_close(changed, loss(Pairs(x, y)))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_computed_in_float32(loss, half):
    x, y = batch(MIXED, half)
    loss = loss.float()
    value = loss(Pairs(x, y))
    assert value.dtype == torch.float32
    assert value.equal(loss(Pairs(x.float(), y)))


def test_autocast_changes_nothing(loss):
    x, y = batch(MIXED, torch.float32)
    loss = loss.float()
    expected = loss(Pairs(x, y))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert loss(Pairs(x, y)).equal(expected)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option[0] == "loss"], ids="/".join)
def test_every_base_loss_works_with_tcm(option):
    x, y = batch(MIXED)
    base = build(option)
    with_tcm, without = (Objective(base, TCM(positive_weight=w, negative_weight=w))(x, y) for w in (1.0, 0.0))
    torch.testing.assert_close(with_tcm["loss"] - with_tcm["tcm"], without["loss"])
    assert with_tcm["tcm"] > 0


@pytest.mark.parametrize(
    ("function", "name"),
    [(smooth_ap, "loss/smooth_ap"), (rs_at_k, "loss/rs_at_k"), (supap, "loss/supap"), (tcm_loss, "tcm/paper")],
)
def test_function_module_and_yaml_agree_on_the_defaults(function, name):
    pairs = Pairs(*batch(MIXED))
    option = build(tuple(name.split("/")))
    assert function(pairs).equal(option(pairs))
    assert function(pairs).equal(type(option)()(pairs))


@pytest.mark.parametrize("option", OWN, ids="/".join)
def test_memory_is_batch_x_largest_class_x_batch(option):
    """Neither batch^3 (216,000 here) nor pairs x dim (113,280), forward and backward."""
    items, per_class, dim = 60, 3, 64
    x = unit_norm(torch.randn(items, dim, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = build(option).float()
    with Largest() as largest:
        loss(Pairs(x, torch.arange(items) // per_class)).backward()
    assert items * items <= largest.numel <= items * per_class * items


@pytest.mark.parametrize("option", OWN, ids="/".join)
def test_the_host_waits_for_a_gpu_twice_at_most(option):
    """For the check of the norms, and for the size of the largest class, of which tensors are made."""
    x, y = batch(MIXED)
    loss = build(option)
    with Waits() as waits:
        loss(Pairs(x.requires_grad_(), y)).backward()
    assert waits.found.total() <= 2, waits.found
