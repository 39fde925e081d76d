import timm
import torch
from torch import nn

from tcm_bench.models.batch_norm import fold_batch_norm


def resnet() -> nn.Module:
    """A small ResNet whose BatchNorms have statistics worth folding."""
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=0, channels=[8, 8, 16, 16]).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -1, 1),
                (layer.running_var, 0.5, 2),
                (layer.weight.data, 0.5, 2),
                (layer.bias.data, -1, 1),
            ):
                tensor.uniform_(low, high)
    return network


def test_folding_keeps_the_function_and_leaves_no_batch_norm():
    network, images = resnet(), torch.randn(4, 3, 64, 64)
    folded = fold_batch_norm(network)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-4, atol=1e-5)


def test_folding_leaves_the_original_as_it_was():
    network = resnet()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold_batch_norm(network)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_a_batch_norm_that_does_more_or_comes_first_is_left_alone():
    class WithActivation(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), WithActivation(4)).eval()
    images = torch.randn(2, 3, 5, 5)
    folded = fold_batch_norm(network)
    assert [type(layer) for layer in folded] == [type(layer) for layer in network]
    torch.testing.assert_close(folded(images), network(images))
