"""Weights in a file of one's own: what any training code saved, an earlier run of this project included."""

import pickle
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tcm_bench.files import file_sha256
from tcm_bench.models.state import load_exactly
from tcm_bench.models.weights import Supply

OWN = "own weights"  # what tables and logs call them
NESTED = ("state_dict", "model_state_dict", "model", "network")  # where training code puts the tensors in a checkpoint
# What stands on top of a backbone, or beside it, and is not part of the features that are taken from it.
HEADS = re.compile(r"fc|mlp|mask_token|queue\w*|\w*(head|heads|classifier|projector|projection|predictor|logits)\w*")


class FileWeights:
    """Weights of a timm network in a file, under timm's names and, it may be, a prefix that they share.

    A classifier and other heads in the file are passed over. Everything else must be the network's, in number, name
    and shape. A file of pickled objects is not opened: only tensors are read.

    Args:
        file: ``.safetensors``, or ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` that ``torch.save`` wrote; the tensors by
            name, or in a checkpoint under ``state_dict``, ``model_state_dict``, ``model`` or ``network``.
        sha256: Hash of the file; None: any file is taken.
        prefix: What comes before timm's names; None: found, which fails only where the file holds the network twice.
    """

    def __init__(self, file: str, sha256: str | None = None, prefix: str | None = None) -> None:
        self.file = Path(file)
        self.sha256 = sha256
        self.prefix = prefix

    def supply(self, architecture: str) -> Supply:
        """The file, which nobody else has."""
        here = self.file.is_file()
        return Supply(
            OWN,
            "your file",
            by_hand=f"put the file at {self.file}, or set model.backbone.weights.file to where it lies",
            file=self.file if here else None,
            sha256=self.sha256,
            size_bytes=self.file.stat().st_size if here else None,
        )

    def fetch(self, architecture: str) -> Path:
        """The file.

        Raises:
            ValueError: If it is not there.
        """
        if not self.file.is_file():
            raise ValueError(f"there is no file {self.file}: set model.backbone.weights.file to one")
        return self.file

    def build(self, architecture: str, options: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """The network, with the hash of the file.

        Raises:
            ValueError: If the file is missing, altered or unreadable, or does not hold the network.
        """
        self.fetch(architecture)
        found = file_sha256(self.file)
        if self.sha256 is not None and found != self.sha256:
            raise ValueError(f"{self.file} has sha256 {found} where {self.sha256} is expected")
        network: Any = timm.create_model(architecture, num_classes=0, **options)
        state, own = _tensors(self.file), network.state_dict()
        prefix = self._prefix(state, own, architecture) if self.prefix is None else self.prefix
        inside = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        kept = {name: t for name, t in inside.items() if name in own or not HEADS.fullmatch(name.partition(".")[0])}
        load_exactly(network, kept, f"{self.file}, read as {architecture},")
        return network, {"name": OWN, "sha256": found}

    def _prefix(self, state: Mapping[str, Tensor], own: Mapping[str, Tensor], architecture: str) -> str:
        """What precedes most of the network's names in the file."""
        counts: Counter[str] = Counter()
        for name in state:
            parts = name.split(".")
            for start in range(len(parts)):
                if ".".join(parts[start:]) in own:
                    counts[".".join([*parts[:start], ""]) if start else ""] += 1
        if not counts:
            some = ", ".join(sorted(state)[:3])
            raise ValueError(
                f"{self.file} holds no tensor of {architecture}, only others such as {some}; a run with a frozen "
                "backbone stores its head alone"
            )
        ((best, most), *others) = counts.most_common()
        if same := [prefix for prefix, count in others if count == most]:
            raise ValueError(
                f"{self.file} holds {architecture} more than once, under {', '.join(sorted([best, *same]))}: set "
                "model.backbone.weights.prefix to one of them"
            )
        return best


def _tensors(file: Path) -> dict[str, Tensor]:
    """A file's tensors by name; no code in it is run."""
    if file.suffix.lower() == ".safetensors":
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file} is not a .safetensors file ({_first_line(error)})") from error
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} holds more than tensors, which would run code when it is opened: save model.state_dict() alone, "
            "with torch.save or as .safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, LookupError) as error:
        raise ValueError(f"{file} is no file of tensors that torch.save wrote ({_first_line(error)})") from error
    while isinstance(content, Mapping) and (inner := next((k for k in NESTED if _is_mapping(content.get(k))), None)):
        content = content[inner]
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ValueError(f"{file} holds no tensors by name, but a {type(content).__name__}: save model.state_dict()")
    return tensors


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:160]
