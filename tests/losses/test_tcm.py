import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as published

from tcm_bench.losses.pairs import Pairs
from tcm_bench.losses.tcm import TCM, tcm_terms
from tcm_bench.unit_norm import unit_norm


def batch(seed, items=12, dim=3, classes=4, noise=0.5):
    """Rows close enough for hard pairs on both sides."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (items,), generator=generator)
    centers = torch.randn(classes, dim, dtype=torch.float64, generator=generator)
    x = centers[labels] + noise * torch.randn(items, dim, dtype=torch.float64, generator=generator)
    return unit_norm(x), labels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [{}, {"positive_margin": 0.7, "negative_weight": 3.0, "positive_weight": 0.5}])
def test_terms_match_the_loop_over_pairs(seed, settings):
    x, y = batch(seed)
    terms = tcm_terms(Pairs(x, y), **settings)
    assert [term.item() for term in terms] == pytest.approx(reference.tcm(x.tolist(), y.tolist(), **settings))
    assert terms.hard_positives > 0
    assert terms.hard_negatives > 0


def test_loss_by_hand():
    """Cosines 0.8 (positive), 0.6 and 0.96 (negatives); violations 0.1 | 0.1 and 0.46."""
    pairs = Pairs(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]]).double(), torch.tensor([0, 0, 1]))
    terms = tcm_terms(pairs, positive_weight=2.0, negative_weight=0.5)
    assert [term.item() for term in terms] == pytest.approx([0.2 + 0.14, 0.1, 0.28, 1, 2])


def test_pairs_exactly_at_a_margin_are_hard_and_count_in_the_mean():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()  # cosines 1 and 0, exact
    terms = tcm_terms(Pairs(x, torch.tensor([0, 0, 1])), positive_margin=1.0, negative_margin=0.0)
    assert [int(terms.hard_positives), int(terms.hard_negatives)] == [1, 2]
    assert terms.loss.item() == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_loss_is_the_published_librarys_and_its_contrastive_loss(seed):
    x, y = batch(seed)
    loss = TCM()(Pairs(x, y))
    torch.testing.assert_close(loss, published.ThresholdConsistentMarginLoss()(x, y))
    from pytorch_metric_learning.distances import CosineSimilarity

    contrastive = published.ContrastiveLoss(pos_margin=0.9, neg_margin=0.5, distance=CosineSimilarity())
    torch.testing.assert_close(loss, contrastive(x, y))


@settings(max_examples=25)
@given(st.integers(1, 15), st.integers(1, 5), st.integers(0, 2**31))
def test_loss_is_blind_to_order_rotation_and_names(items, classes, seed):
    x, y = batch(seed, items=items, classes=classes)
    loss = TCM()(Pairs(x, y))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(items, generator=generator)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator)).Q
    for same in (Pairs(x[order], y[order]), Pairs(x @ rotation, y), Pairs(x, 10 - y)):
        torch.testing.assert_close(TCM()(same), loss, rtol=0, atol=1e-12)


def test_without_violators_both_terms_are_0_and_keep_the_graph():
    x = torch.eye(2, dtype=torch.float64)[[0, 0, 1, 1]].requires_grad_()
    terms = TCM().terms(Pairs(x, torch.tensor([0, 0, 1, 1])))
    assert [term.item() for term in terms] == [0.0] * 5
    for term in terms[:3]:
        (gradient,) = torch.autograd.grad(term, x, retain_graph=True)
        assert gradient.equal(torch.zeros_like(x))


def test_gradient_pulls_hard_positives_together_and_pushes_hard_negatives_apart():
    x = unit_norm(torch.tensor([[1.0, 0.0], [1.0, 1.0]]).double()).requires_grad_()  # cosine 0.71
    (pull,) = torch.autograd.grad(TCM()(Pairs(x, torch.tensor([0, 0]))), x)
    (push,) = torch.autograd.grad(TCM()(Pairs(x, torch.tensor([0, 1]))), x)
    assert pull.equal(-x.detach().flip(0))
    assert push.equal(x.detach().flip(0))


def test_weights_0_make_the_baseline_and_still_report():
    x, y = batch(0)
    x.requires_grad_()
    terms = TCM(positive_weight=0.0, negative_weight=0.0).terms(Pairs(x, y))
    assert terms.loss.item() == 0.0
    assert torch.autograd.grad(terms.loss, x)[0].equal(torch.zeros_like(x))
    assert terms.positive > 0
    assert terms.hard_positives > 0


@pytest.mark.parametrize(
    ("argument", "value"),
    [("positive_margin", 1.5), ("negative_margin", -1.5), ("positive_weight", -1.0), ("negative_weight", -1.0)],
)
def test_impossible_settings_are_refused(argument, value):
    with pytest.raises(ValueError, match=argument):
        TCM(**{argument: value})
