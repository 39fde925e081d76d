"""Where the host would wait for a GPU: on a CPU nothing waits, but what would can be counted."""

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

TORCH = Path(torch.__file__).parent


def place() -> str:
    """The line that torch was called from."""
    frames = [frame for frame in traceback.extract_stack() if not Path(frame.filename).is_relative_to(TORCH)]
    frame = [frame for frame in frames if frame.filename != __file__][-1]
    return f"{'/'.join(Path(frame.filename).parts[-3:])}:{frame.lineno}, {frame.name}"


class Waits(TorchDispatchMode):
    """Counts by line and kind: numbers read, shapes that depend on numbers, tensors made of Python's numbers.

    The last do not wait if they stay on the host; what is copied to another device is not seen.
    """

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "lift_fresh", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if masked or name in self.NAMES:
            self.found[place(), f"{name}, mask" if masked else name] += 1
        return func(*args, **(kwargs or {}))
