"""Named tensors in a file that can hold nothing else: safetensors."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from tcm_bench.files import replacing


def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """Write them, and notes beside them, whole or not at all.

    Raises:
        OSError: If the file cannot be written, as on a full disk.
    """
    try:
        with replacing(path) as temporary:
            content = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            save_file(content, temporary, dict(notes) if notes else None)
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(f"cannot write {path}: {error}") from error
