"""A network's tensors by name: loaded all or not at all, and hashed."""

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

SHOWN = 3


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], where: object) -> None:
    """Give a network every one of its tensors, and have none left over.

    What counts BatchNorm's batches may be missing: old files have none, and nothing is computed from it.

    Args:
        network: Its tensors keep their type.
        state: By the network's own names.
        where: What the tensors come from, for the message.

    Raises:
        ValueError: If a tensor is missing, too many or of another shape, with the first names of each.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    left_over = [name for name in state if name not in own]
    others = [
        f"{name}, {tuple(state[name].shape)} where {tuple(tensor.shape)} is expected"
        for name, tensor in own.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults = {"lacks": missing, "has beside it": left_over, "has in another shape": others}
    if any(faults.values()):
        said = "; ".join(f"it {verb} {_shown(names)}" for verb, names in faults.items() if names)
        raise ValueError(f"{where} does not hold the network that is asked for: {said}")
    network.load_state_dict({name: state.get(name, tensor) for name, tensor in own.items()})


def state_sha256(network: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a network's parameters and buffers, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
