r"""How much of the spread between classes is noise, because each is known by a few images only, and OPIS without it.

Had other images of the same classes been taken, each class's sensitivity and specificity would come out a little
different. That noise adds to the spread that OPIS measures: with five images a class it can be as large as the spread
itself. Both can be told apart, as the images of a class are independent looks at it:

- *Sensitivity* is a mean over pairs that share images. Two pairs that share none are independent, so the share of such
  pairs of pairs of which both are accepted is an unbiased estimate of the square of the true sensitivity, and what the
  square of the measured one exceeds it by is an unbiased estimate of the variance of the noise (the second term of a
  U-statistic: Hoeffding 1948). It takes four images: a class with fewer is left out, and counted.
- *Specificity* is a mean over images. The difference of two random halves of a class tells the variance of the whole.

At each threshold the classes' values are then moved towards their mean, all by one factor, until their variance is the
measured one less that of the noise; the corrected OPIS is the OPIS of these. Correcting the values in place of OPIS
itself makes utility's bend harmless: on simulated classes of known truth the bias is below 2 % from five images a class
on (`tests/benchmarks/noise.py`), where the covariance of the utilities of two halves, the usual way, is far off until
there are some twenty. Where there is no spread but noise the corrected value is near 0, never below.

**It takes the images of different classes for independent draws.** Where all classes have the same sources (characters
in the same typefaces, products by the same cameras), part of what makes an image deviate is common to all classes, does
not spread them, and is taken off nevertheless: the corrected value is then too small, and the noise floor too high.
Not covered either: noise of the calibration range, and that of which classes were drawn (`bootstrap`).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sensitivity_noise(
    sensitivity: Float[Tensor, "classes thresholds"],
    disjoint: Int[Tensor, " classes"],
    accepted_disjoint: Int[Tensor, "classes thresholds"],
) -> Float[Tensor, "classes thresholds"]:
    """Unbiased variance of each class's sensitivity over draws of its images; single values may be negative.

    Args:
        sensitivity: Accepted share of the positive pairs.
        disjoint: Ordered pairs of two positive pairs without a common item, at least one.
        accepted_disjoint: Of these those of which both are accepted.

    Example:
        >>> half = torch.tensor([[0.5]])  # of the six pairs of four images the three of one image are accepted
        >>> sensitivity_noise(half, torch.tensor([6]), torch.tensor([[0]]))
        tensor([[0.2500]])
    """
    return sensitivity.square() - accepted_disjoint / disjoint[:, None]


def specificity_noise(
    negatives: Int[Tensor, "classes 2"], accepted_negatives: Int[Tensor, "classes 2 thresholds"]
) -> Float[Tensor, "classes thresholds"]:
    """Unbiased variance of each class's specificity over draws of its images, from two halves of them.

    Args:
        negatives: Negative pairs of each half, at least one.
        accepted_negatives: Those accepted at each threshold.

    Example:
        >>> specificity_noise(torch.tensor([[10, 10]]), torch.tensor([[[1], [3]]]))
        tensor([[0.0100]], dtype=torch.float64)
    """
    first, second = (accepted_negatives.double() / negatives[:, :, None]).unbind(1)
    weights = negatives.double() / negatives.sum(dim=1, keepdim=True)
    return (first - second).square() * weights.prod(dim=1, keepdim=True)


def less_noise(
    values: Float[Tensor, "classes thresholds"], noise: Float[Tensor, "classes thresholds"]
) -> Float[Tensor, "classes thresholds"]:
    """Values of the same mean whose variance over classes is less by that of the noise, at each threshold.

    Args:
        values: Measured.
        noise: Variance of the noise in each.

    Example:
        >>> less_noise(torch.tensor([[0.2], [0.8]]), torch.tensor([[0.12], [0.16]]))[:, 0]
        tensor([0.3586, 0.6414])
    """
    mean = values.mean(dim=0)
    variance = (values - mean).square().mean(dim=0)
    expected = noise.mean(dim=0).clamp(min=0) * (1 - 1 / len(values))  # the mean moves with the noise, too
    left = (1 - expected / variance).clamp(min=0).sqrt()
    return mean + torch.where(variance > 0, left, 0.0) * (values - mean)
