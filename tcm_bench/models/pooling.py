"""From a backbone's feature map or tokens to one vector an image."""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Pooling = Literal["average", "gem", "cls", "cls_mean"]
GEM_POWER = 3.0  # fixed, as in the public RS@k code
GEM_FLOOR = 1e-6


def checked_pooling(name: str, *, prefix_tokens: int | None) -> Pooling:
    """The pooling of this name, if the network's output allows it.

    Args:
        name: One of ``average``, ``gem``, ``cls``, ``cls_mean``.
        prefix_tokens: Tokens before the patches; None for a network that gives a feature map.

    Raises:
        ValueError: If the name is unknown or the network has not what the pooling needs.
    """
    for known in get_args(Pooling):
        if name == known:
            break
    else:
        raise ValueError(f"pooling must be one of {', '.join(get_args(Pooling))}, got {name!r}")
    if known.startswith("cls") and not prefix_tokens:
        raise ValueError(f"pooling {name!r} needs a class token, which this network lacks: use average or gem")
    if known == "gem" and prefix_tokens is not None:
        raise ValueError("pooling 'gem' needs a non-negative feature map, not tokens: use cls or average")
    return known


def pooled(
    features: Float[Tensor, "batch ..."], pooling: Pooling, *, prefix_tokens: int | None
) -> Float[Tensor, "batch pooled"]:
    r"""One vector an image.

    ``average`` is the mean over positions (over patch tokens only, for tokens), ``cls`` the class token,
    ``cls_mean`` the class token followed by the mean patch token, and ``gem`` the generalized mean

    .. math:: \left( \mathrm{mean}_x \max(f(x), 10^{-6})^3 \right)^{1/3}

    Args:
        features: A map ``(batch, channels, height, width)``, or tokens ``(batch, tokens, channels)``.
        pooling: As :func:`checked_pooling` returned it.
        prefix_tokens: Tokens before the patches, the class token first; None for a map.

    Returns:
        ``(batch, channels)``; twice the channels for ``cls_mean``.

    References:
        Radenovic et al., TPAMI 2019, arXiv:1711.02512 (GeM); Oquab et al., arXiv:2304.07193 (``cls_mean``).
    """
    if prefix_tokens is None:
        if pooling == "gem":
            return features.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean(dim=(2, 3)).pow(1 / GEM_POWER)
        return features.mean(dim=(2, 3))
    mean = features[:, prefix_tokens:].mean(dim=1)
    if pooling == "average":
        return mean
    return features[:, 0] if pooling == "cls" else torch.cat([features[:, 0], mean], dim=1)
