"""What every backbone promises. A new ``conf/model/backbone/*.yaml`` is enrolled by existing."""

import json
import shlex
from pathlib import Path

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from memory import hand_back
from omegaconf import OmegaConf

from tcm_bench.models.backbone import TimmBackbone
from tcm_bench.models.embedder import Embedder
from tcm_bench.models.weights import RandomWeights
from tcm_bench.runs.build import build

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "model"
NAMES = sorted(path.stem for path in (FOLDER / "backbone").glob("*.yaml") if path.stem != "none")
RANDOM = {"_target_": "tcm_bench.models.weights.RandomWeights"}
INPUT = {"size_px": 32, "resize_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}


@pytest.fixture(autouse=True, scope="module")
def _handed_back():
    yield
    hand_back()


@pytest.fixture(params=NAMES)
def backbone(request):
    cfg = OmegaConf.load(FOLDER / "backbone" / f"{request.param}.yaml")
    cfg.weights = RANDOM
    torch.manual_seed(0)
    return instantiate(cfg)


def test_every_backbone_keeps_its_promises(backbone):
    head = instantiate(OmegaConf.load(FOLDER / "embedder.yaml").head)
    embedder = Embedder(backbone, head)
    with torch.no_grad():  # away from weights that start at exactly 0 and would block the gradient
        for parameter in embedder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    size = backbone.input["size_px"]
    embeddings = embedder(torch.randn(2, 3, size, size))
    assert embeddings.shape == (2, 512)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2), rtol=0, atol=1e-5)
    (embeddings @ torch.randn(512)).sum().backward()
    missed = [name for name, p in embedder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert missed == []
    assert json.loads(json.dumps(backbone.identity)) == backbone.identity  # plain enough for keys and rows


def test_four_convolutions_leave_one_position_of_28_px_and_take_no_classifier():
    network = timm.create_model("conv4", num_classes=0, channels=8)
    assert network.forward_features(torch.zeros(2, 3, 28, 28)).shape == (2, 8, 1, 1)
    assert sum(p.numel() for p in network.parameters()) == 9 * 8 * (3 + 3 * 8) + 4 * 3 * 8  # kernels; biases and norms
    with pytest.raises(ValueError, match="neither pretrained weights nor a classifier"):
        timm.create_model("conv4", num_classes=10)


def small(**changes) -> TimmBackbone:
    arguments = {
        "architecture": "resnet10t",
        "weights": RandomWeights(),
        "pooling": "average",
        "input": INPUT,
        "options": {"channels": [8, 8, 16, 24]},
    }
    return TimmBackbone(**(arguments | changes))


def test_pooling_is_a_choice_of_its_own():
    torch.manual_seed(0)
    average = small().eval()
    gem = small(pooling="gem").eval()
    gem.load_state_dict(average.state_dict())
    images = torch.randn(2, 3, 32, 64)
    features = average.network.forward_features(images)
    assert average.num_features == features.shape[1] == 24
    torch.testing.assert_close(average(images), features.mean(dim=(2, 3)))
    torch.testing.assert_close(gem(images), features.clamp(min=1e-6).pow(3).mean(dim=(2, 3)).pow(1 / 3))


def test_identity_tells_apart_whatever_computes_something_else():
    torch.manual_seed(0)
    first = small().identity
    torch.manual_seed(0)
    assert small().identity == first
    others = [
        small(),  # other random weights
        small(pooling="gem"),
        small(input=INPUT | {"mean": [0.4] * 3}),
        small(options={"channels": [8, 8, 16, 16]}),
        small(architecture="resnet14t"),
    ]
    assert first not in [other.identity for other in others]


def test_a_folded_copy_computes_the_same():
    backbone, images = small().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.for_inference()(images), backbone(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "resnet51"}, "must be a timm model without a weights tag, got 'resnet51'"),
        ({"architecture": "resnet50.tv_in1k"}, "without a weights tag"),
        ({"input": {"size_px": 32}}, "input must have the keys"),
        ({"pooling": "cls"}, "needs a class token"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        small(**changes)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("resnet50_imgsim", "resnet18"), ("vit_small_focus", "vit_base_patch14_dinov2"), ("mobilenetv2", "resnet18")],
)
def test_weights_of_another_network_are_one_sentence_with_two_ways_out(name, architecture):
    cfg = OmegaConf.load(FOLDER / "backbone" / f"{name}.yaml")
    cfg.architecture = architecture
    with pytest.raises(ValueError, match=rf"^the weights .* are not of architecture={architecture}: ") as caught:
        build(cfg)
    message = str(caught.value)
    assert "\n" not in message
    assert f"`model/backbone=resnet50 model.backbone.architecture={architecture}`" in message
    words = shlex.split(message.rpartition("random ones with `")[2].rstrip("`"))
    with initialize_config_dir(str(FOLDER.parent), version_base="1.3"):
        chosen = compose("config", [f"model/backbone={name}", f"model.backbone.architecture={architecture}", *words])
    assert build(chosen.model.backbone).identity["weights"]["name"] == "random"
