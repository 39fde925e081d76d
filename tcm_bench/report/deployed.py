"""What one threshold means in use, class by class: figures of `tcm_bench.evaluation.deployment`."""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from tcm_bench.evaluation.deployment import Deployment
from tcm_bench.report.picture import COLORS, as_it_is, plain_axes, write_picture

QUANTILES = (0.05, 0.5, 0.95)  # of the classes


def deployment_figure(sides: Mapping[str, Deployment]) -> Figure:
    """Distribution of the judged classes' own rates, false accepts beside false rejects.

    Each line says which share of the classes has at most a rate; the rate that was wanted is the dashed line. Under a
    threshold that fits all classes alike the lines would be upright. False accept rates are on a logarithmic
    axis, at whose left edge, named 0, a class has its place that accepts none of its pairs of two classes.

    Args:
        sides: By the name of a network, at most two, for the same wanted rate.

    Returns:
        A figure of 9 by 3.4 inches that belongs to no global state.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, rate, title in zip(panels, ("far", "frr"), ("false accept rate", "false reject rate"), strict=True):
        percent = {name: np.sort(100 * getattr(side, f"class_{rate}").numpy()) for name, side in sides.items()}
        edge = _log_axis(panel, np.concatenate(list(percent.values()))) if rate == "far" else 0.0
        for (name, values), color in zip(percent.items(), COLORS, strict=False):
            shares = np.arange(1, len(values) + 1) / len(values)
            panel.step(values.clip(min=edge), shares, where="post", color=color, linewidth=1.6, label=as_it_is(name))
        wanted = [side.wanted for side in sides.values() if side.rate == rate]
        if wanted:
            panel.axvline(100 * wanted[0], color="0.25", linestyle="--", linewidth=1, label="wanted")
        panel.set(xlabel=f"{title} of a class, %", ylim=(0, 1))
        plain_axes(panel)
    panels[0].set_ylabel("share of the classes")
    named = {line.get_label(): line for panel in panels for line in panel.lines}  # the wanted rate is in one of them
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _log_axis(panel: Axes, percent: Float[np.ndarray, " rates"]) -> float:
    """Make the axis of the rates logarithmic; returns its left edge, the power of ten below all that are not 0."""
    seen = percent[percent > 0]
    edge = float(10 ** (np.ceil(np.log10(seen.min())) - 1)) if len(seen) else 1e-3
    panel.set_xscale("log")
    panel.set_xlim(left=edge, right=2 * max(percent.max(), edge))
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    is_zero_shown = len(seen) < len(percent)
    panel.xaxis.set_major_formatter(lambda rate, _: "0" if is_zero_shown and rate < 1.01 * edge else f"{rate:g}")
    panel.xaxis.set_minor_formatter(NullFormatter())
    return edge


def write_deployment_figure(sides: Mapping[str, Deployment], path: Path) -> Path:
    """Draw `deployment_figure` into a file.

    Raises:
        ValueError: As `tcm_bench.report.picture.write_picture` says.
    """
    return write_picture(path, lambda: deployment_figure(sides), None)


def recorded(found: Deployment, names: Sequence[Any] | None = None) -> dict[str, Any]:
    """A deployment as plain values, for JSON. An end of the interval that is not known is None.

    Args:
        found: What was found.
        names: Of the classes, by their labels; None: the labels themselves.
    """

    def name(label: int) -> Any:
        return label if names is None else names[label]

    cosine = found.threshold if found.axis == "similarity" else 1 - found.threshold**2 / 2
    return {
        "rate": found.rate,
        "wanted": found.wanted,
        "axis": found.axis,
        "threshold": found.threshold,
        "reached": found.reached,
        "interval": [end if isfinite(end) else None for end in (found.low, found.high)],
        "cosine": cosine,
        "distance": max(2 - 2 * cosine, 0.0) ** 0.5,
        "calibration_classes": len(found.calibration),
        "judged_classes": len(found.judged),
        "far": found.far,
        "frr": found.frr,
        "quantiles": {
            rate: dict(zip(map(str, QUANTILES), _quantiles(getattr(found, f"class_{rate}")), strict=True))
            for rate in ("far", "frr")
        },
        "beyond_twice": int((found.class_rate > 2 * found.wanted).sum()),
        "classes": [
            {"label": name(label), "far": far, "frr": frr}
            for label, far, frr in zip(
                found.judged.tolist(), found.class_far.tolist(), found.class_frr.tolist(), strict=True
            )
        ],
    }


def _quantiles(rates: torch.Tensor) -> list[float]:
    return rates.quantile(rates.new_tensor(QUANTILES)).tolist()
