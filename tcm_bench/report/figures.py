"""Figures of the report page, by matplotlib: as pictures of their own, and as SVG that takes the page's colors."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tcm_bench.evaluation.class_curves import ClassCurves
from tcm_bench.evaluation.evaluate import scientific
from tcm_bench.evaluation.settings import Settings
from tcm_bench.evaluation.threshold import num_worst
from tcm_bench.report.curves import spread
from tcm_bench.report.fold import Pair
from tcm_bench.report.picture import COLORS, GRID, as_it_is, plain_axes, write_picture
from tcm_bench.report.scores import score

MOST_CURVES, MOST_WORST = 60, 20
ARMS = ("without TCM", "with TCM")
SHADE = "0.95"
NAME_LETTERS = 45  # of a comparison, on a line beside a figure
# What the page sets to its own colors, and what stands for them in the SVG.
PAGE_COLORS = {
    "#000000": "currentColor",
    "#404040": "currentColor",
    "#e6e6e6": "var(--grid)",
    "#f2f2f2": "var(--shade)",
    "#0072b2": "var(--base)",
    "#d55e00": "var(--tcm)",
}
CLASS = "class-"  # of a curve's id: its label follows


def svg(figure: Figure, name: str) -> str:
    """A figure as SVG to put into a page: text as text, colors of the page, no size of its own.

    Args:
        figure: Any.
        name: Of its own on the page, so that what it names inside is.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(
        r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1), count=1
    )
    for color, of_page in PAGE_COLORS.items():
        text = text.replace(color, of_page)
    text = re.sub(rf'<g id="{CLASS}([^"]*)">', r'<g class="class" data-class="\1">', text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(?<= d=")[^"]*', lambda found: _shorter(found[0]), text)
    # Identifiers that nothing refers to would be there once for each figure.
    used = set(re.findall(r"#([\w.-]+)", text))
    return re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", text)


def _shorter(path: str) -> str:
    """A path to tenths of a point, in a third of the bytes; of lines alone the command need not be said again.

    Example:
        >>> _shorter("M 39.904 213.795 L 44.598 213.795 L 49.2 1.234")
        'M 39.9 213.7 44.5 213.7 49.2 1.2'
    """
    cut = re.sub(r"(\.\d)\d+", r"\1", " ".join(path.split()))
    return cut if re.search("[CQz]", cut) else cut.replace(" L ", " ")


def write_figure(figure: Figure, stem: Path) -> list[Path]:
    """A figure as `stem`.svg and `stem`.png."""
    with mpl.rc_context({"svg.hashsalt": stem.name}):
        return [
            write_picture(stem.with_name(f"{stem.name}{suffix}"), lambda: figure, None, dpi=150)
            for suffix in (".svg", ".png")
        ]


def curves_figure(
    sides: Mapping[str, ClassCurves], scores: Mapping[str, Mapping[str, float | None]], settings: Settings
) -> Figure:
    """Utility of the classes over the pooled false accept rate; the worst share of them in a color of their own.

    Drawn are at most `MOST_WORST` of the worst classes and `MOST_CURVES` of the others, spread evenly over them. Above
    each calibration range stands its OPIS.

    Args:
        sides: By the name of a network, from left to right.
        scores: Of each network, by their names in rows.
        settings: What both were measured with.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, len(sides), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (name, side) in zip(panels, sides.items(), strict=True):
        _draw_classes(panel, side, settings)
        _draw_ranges(panel, side, scores[name], settings)
        panel.set_title(name, fontsize=10, pad=18)
        panel.set_xlabel("threshold, by its false accept rate over all classes")
    panels[0].set_ylabel("utility of a class")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_classes(panel: Axes, side: ClassCurves, settings: Settings) -> None:
    rates, utilities = side.rates.numpy(), side.utilities.numpy()
    order = np.argsort(mean_utilities(side, settings), kind="stable")
    worst = num_worst(len(order), settings.eps)
    for members, most, color, label in (
        (order[worst:], MOST_CURVES, COLORS[0], "a class"),
        (order[:worst], MOST_WORST, COLORS[1], f"of the worst {100 * settings.eps:g} %"),
    ):
        if not len(members):
            continue
        for number in members[spread(len(members), most)]:
            (line,) = panel.plot(rates, utilities[number], color=color, alpha=0.4, linewidth=0.8)
            line.set_gid(f"{CLASS}{side.labels[number]}")
        line.set_label(label)
    panel.plot(rates, utilities.mean(axis=0), color="black", linewidth=2, label=f"mean of {len(utilities)} classes")
    panel.set(xscale="log", ylim=(0, 1), xlim=(rates[0], rates[-1]))
    plain_axes(panel)


def mean_utilities(side: ClassCurves, settings: Settings) -> np.ndarray:
    """Of each class over the headline's calibration range, as the metric ranks classes by; in [0, 1].

    By the trapezoid rule over the curves' own rates, which are fewer than the metric's.
    """
    low, high = settings.far_bounds
    inside = (side.rates >= low * (1 - 1e-9)) & (side.rates <= high * (1 + 1e-9))
    if inside.sum() < 2:  # too few pairs to show the range
        inside = torch.ones_like(inside)
    cosines = side.thresholds.clamp(-1, 1)
    axes = {"distance": (2 - 2 * cosines).sqrt(), "similarity": cosines, "far": side.rates.log()}
    axis = axes[settings.axis][inside]
    utilities = side.utilities[:, inside]
    if axis[0] == axis[-1]:
        return utilities.mean(dim=1).numpy()
    return (torch.trapezoid(utilities, axis) / (axis[-1] - axis[0])).numpy()


def _draw_ranges(panel: Axes, side: ClassCurves, scores: Mapping[str, float | None], settings: Settings) -> None:
    for number, (name, (low, high)) in enumerate(opis_ranges(settings).items()):
        if high <= side.rates[0]:
            continue
        shown_low = max(low, float(side.rates[0]))
        if number % 2 == 0:
            panel.axvspan(shown_low, high, color=SHADE, zorder=0)
        value = scores.get(name)
        shown = "undefined" if value is None else f"{score(name).scale * value:.1f}"
        panel.text((shown_low * high) ** 0.5, 1.02, f"OPIS {shown}", ha="center", va="bottom", fontsize=8)


def opis_ranges(settings: Settings) -> dict[str, tuple[float, float]]:
    """The false accept rates at the ends of each calibration range, strictest first, by the name of its OPIS."""
    names = {
        "opis" if bounds is settings.far_bounds else f"opis_far_{scientific(bounds[1])}": bounds
        for bounds in settings.ranges
    }
    return dict(sorted(names.items(), key=lambda named: named[1]))


def ranges_figure(names: Sequence[str], pairs: Sequence[Sequence[Pair]]) -> Figure:
    """OPIS of every comparison in each range of rates, without TCM and with it, as measured and less noise.

    Args:
        names: Of the comparisons.
        pairs: Of each its runs without TCM and with it, a pair for each seed: drawn are the means.
    """
    measured = [Settings.of(run.threshold) for runs in pairs for pair in runs for run in pair]
    ranges = opis_ranges(measured[0] if measured else Settings())
    wrapped = [fill(as_it_is(name), NAME_LETTERS) for name in names]
    lines = max((name.count("\n") + 1 for name in wrapped), default=1)
    figure = Figure(figsize=(9, 1.6 + max(0.26, 0.14 * lines) * max(len(names), 1)), layout="constrained")
    panels = figure.subplots(1, len(ranges), sharey=True, squeeze=False)[0]
    places = np.arange(len(names))[::-1]
    for panel, (name, (low, high)) in zip(panels, ranges.items(), strict=True):
        corrected = "opis_corrected" if name == "opis" else name.replace("opis_", "opis_corrected_")
        for kind, offset, style in ((name, 0.13, {}), (corrected, -0.13, {"fillstyle": "none"})):
            values = np.array([_means(runs, kind) for runs in pairs]).reshape(-1, 2).T * score(kind).scale
            panel.hlines(places + offset, *values, color=GRID, linewidth=2, zorder=1)
            for value, color, arm in zip(values, COLORS, ARMS, strict=False):
                label = f"{arm}, less noise" if style else arm
                panel.plot(value, places + offset, "o", color=color, markersize=4, label=label, **style)
        panel.set_title(f"FAR {low:g} to {high:g}", fontsize=9)
        panel.set_xlabel("OPIS x 1e-3")
        panel.set_xlim(left=0)
        plain_axes(panel, grid="x")
    panels[0].set_yticks(places, wrapped, fontsize=8)
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _means(runs: Sequence[Pair], name: str) -> list[float]:
    """Of both arms over the seeds; NaN where a run has no value."""
    found = [[math.nan if (value := run.metrics.get(name)) is None else value for run in pair] for pair in runs]
    return np.mean(found, axis=0).tolist() if found else [math.nan, math.nan]


TRAINING = {  # columns of a history: title of their panel
    "train/base": "base loss",
    "train/hard_positives": "share of hard positive pairs",
    "train/hard_negatives": "share of hard negative pairs",
    "val/recall_at_1": "R@1 on held-out classes",
    "val/opis": "OPIS on held-out classes",
}


def training_figure(histories: Mapping[str, pd.DataFrame | None]) -> Figure | None:
    """What was logged each epoch, without TCM and with it; None if nothing was.

    Args:
        histories: By the name of each of the two networks: `history.csv`; None where there is none.
    """
    shown = [
        column
        for column in TRAINING
        if any(one is not None and column in one and one[column].notna().any() for one in histories.values())
    ]
    if not shown:
        return None
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for panel, column in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for (name, history), color in zip(histories.items(), COLORS, strict=False):
            if history is not None and column in history:
                kept = history[["epoch", column]].dropna()
                panel.plot(kept["epoch"], kept[column], "o-", color=color, markersize=3, linewidth=1.2, label=name)
        panel.set_title(TRAINING[column], fontsize=9)
        panel.set_xlabel("epoch")
        plain_axes(panel)
    handles = panel.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False)
    return figure
