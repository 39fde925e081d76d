import torch
from pytorch_metric_learning import losses as published
from pytorch_metric_learning.miners import TripletMarginMiner

from tcm_bench.losses.pairs import Pairs
from tcm_bench.losses.pytorch_metric_learning import PytorchMetricLearning
from tcm_bench.unit_norm import unit_norm


class Product(torch.nn.Module):
    """A loss that autocast would round."""

    def forward(self, embeddings, labels):
        return (embeddings @ embeddings.T).square().sum()


def batch():
    generator = torch.Generator().manual_seed(0)
    return unit_norm(torch.randn(8, 6, generator=generator)), torch.arange(8) % 3


def test_the_adapter_adds_nothing():
    x, y = batch()
    inner = published.MultiSimilarityLoss()
    assert PytorchMetricLearning(inner)(Pairs(x, y)).equal(inner(x, y))


def test_what_a_miner_finds_is_all_that_the_loss_sees():
    x, y = batch()
    inner, miner = published.TripletMarginLoss(), TripletMarginMiner(margin=0.2, type_of_triplets="semihard")
    mined = PytorchMetricLearning(inner, miner)(Pairs(x, y))
    assert mined.equal(inner(x, y, miner(x, y)))
    assert not mined.equal(inner(x, y))


def test_proxies_are_parameters_and_receive_a_gradient():
    x, y = batch()
    loss = PytorchMetricLearning(published.ProxyAnchorLoss(num_classes=3, embedding_size=6))
    ((name, proxies),) = loss.named_parameters()
    assert name == "loss.proxies"
    loss(Pairs(x, y)).backward()
    assert proxies.grad is not None
    assert proxies.grad.abs().sum() > 0


def test_autocast_does_not_reach_the_loss():
    x, y = batch()
    loss = PytorchMetricLearning(Product())
    expected = loss.loss(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not loss.loss(x, y).equal(expected)
        assert loss(Pairs(x, y)).equal(expected)
