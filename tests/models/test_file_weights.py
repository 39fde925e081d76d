"""Weights of one's own: whatever code saved them, the network computes what it computed, or there is one sentence."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file

from tcm_bench.files import file_sha256
from tcm_bench.models.file_weights import FileWeights

SMALL = {"channels": [8, 8, 16, 24], "stem_width": 8}
VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture
def trained():
    """A network that somebody trained, classifier included."""
    torch.manual_seed(1)
    network = timm.create_model("resnet10t", num_classes=7, **SMALL)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer))
    return network.eval()


def same(trained, file, **settings):
    network, identity = FileWeights(str(file), **settings).build("resnet10t", SMALL)
    assert identity == {"name": "own weights", "sha256": file_sha256(file)}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = trained.forward_features(images).float()
        torch.testing.assert_close(network.eval().forward_features(images), expected, rtol=0, atol=0)


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.", "module.backbone.network.", "a.b.c."])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_any_prefix_and_any_format(trained, tmp_path, prefix, suffix):
    state = prefixed(trained.state_dict(), prefix)
    (save_file if suffix == ".safetensors" else torch.save)(state, tmp_path / f"my{suffix}")
    same(trained, tmp_path / f"my{suffix}")


@pytest.mark.parametrize("keys", [["state_dict"], ["model"], ["model", "state_dict"]])
def test_a_checkpoint_may_hold_more_than_the_network(trained, tmp_path, keys):
    state = prefixed(trained.state_dict(), "model.") | {
        "model.projector.0.weight": torch.zeros(3),
        "head.weight": torch.zeros(2),
        "queue_ptr": torch.zeros(1),
    }
    for key in reversed(keys):
        state = {"epoch": 3, "optimizer": {"state": {}}, "lr": 0.1, key: state}
    torch.save(state, tmp_path / "my.ckpt")
    same(trained, tmp_path / "my.ckpt")


def test_half_precision_and_files_from_before_batches_were_counted(trained, tmp_path):
    state = {n: t for n, t in trained.half().state_dict().items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "my.pt")
    same(trained.float(), tmp_path / "my.pt")


def test_of_two_networks_in_a_file_one_is_chosen(trained, tmp_path):
    other = {name: tensor + 1 for name, tensor in trained.state_dict().items()}
    save_file(prefixed(trained.state_dict(), "student.") | prefixed(other, "teacher."), tmp_path / "my.safetensors")
    with pytest.raises(ValueError, match=r"resnet10t more than once, under student\., teacher\.: set .*prefix to one"):
        FileWeights(str(tmp_path / "my.safetensors")).build("resnet10t", SMALL)
    same(trained, tmp_path / "my.safetensors", prefix="student.")


class Malicious:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def without(state, part):
    return {name: tensor for name, tensor in state.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: without(s, "layer2.0.bn1"), "it lacks layer2.0.bn1.weight, layer2.0.bn1.bias, layer2.0.bn1.run"),
        (lambda s: without(s, "layer"), " and 57 more"),
        (lambda s: s | {"layer4.1.conv1.weight": torch.zeros(1)}, "it has beside it layer4.1.conv1.weight"),
        (lambda s: s | {"norm_pre.weight": torch.zeros(1)}, "it has beside it norm_pre.weight"),
        (
            lambda s: s | {"layer1.0.bn1.bias": torch.zeros(3)},
            "it has in another shape layer1.0.bn1.bias, (3,) where (8,) is expected",
        ),
        (lambda s: {"head.linear.weight": torch.zeros(3)}, "holds no tensor of resnet10t, only others such as head.l"),
        (lambda s: {"state_dict": {}}, "holds no tensors by name, but a dict"),
        (lambda s: [1, 2], "holds no tensors by name, but a list: save model.state_dict()"),
        (lambda s: {"state_dict": Malicious()}, "holds more than tensors, which would run code when it is opened"),
        (lambda s: torch.nn.Linear(2, 2), "holds more than tensors, which would run code when it is opened"),
    ],
)
def test_what_is_not_the_network_is_one_sentence(trained, tmp_path, change, sentence):
    torch.save(change(trained.state_dict()), tmp_path / "my.pt")
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        FileWeights(str(tmp_path / "my.pt")).build("resnet10t", SMALL)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "my.pt"))


def test_a_longer_network_is_not_cut(tmp_path):
    torch.save(timm.create_model("resnet14t", **SMALL).state_dict(), tmp_path / "my.pt")
    with pytest.raises(ValueError, match="does not hold the network that is asked for"):
        FileWeights(str(tmp_path / "my.pt")).build("resnet10t", SMALL)


def test_a_transformer_of_another_grid_is_refused(tmp_path):
    state = timm.create_model("vit_small_patch16_224", **VIT).state_dict()
    torch.save(state, tmp_path / "my.pt")
    FileWeights(str(tmp_path / "my.pt")).build("vit_small_patch16_224", VIT)
    with pytest.raises(ValueError, match=r"pos_embed, \(1, 5, 24\) where \(1, 17, 24\) is expected"):
        FileWeights(str(tmp_path / "my.pt")).build("vit_small_patch16_224", VIT | {"img_size": 64})


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.pt", None, "there is no file .*none.pt: set model.backbone.weights.file to one"),
        ("my.pt", b"", "my.pt is no file of tensors that torch.save wrote"),
        ("my.pt", b"not tensors", "my.pt (is no file of tensors|holds more than tensors)"),
        ("my.safetensors", b"not tensors", "my.safetensors is not a .safetensors file"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as refused:
        FileWeights(str(tmp_path / name)).build("resnet10t", SMALL)
    assert "\n" not in str(refused.value)


def test_an_altered_file_is_refused(trained, tmp_path):
    torch.save(trained.state_dict(), tmp_path / "my.pt")
    with pytest.raises(ValueError, match=r"has sha256 .* where 0000.* is expected"):
        FileWeights(str(tmp_path / "my.pt"), sha256="0" * 64).build("resnet10t", SMALL)
