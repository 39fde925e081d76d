"""Utility curves of the classes of two networks: how far from each other do classes want their threshold?"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tcm_bench.data.datasets.vectors import vector_set
from tcm_bench.evaluation.settings import Settings
from tcm_bench.evaluation.threshold import operating_curves, utility
from tcm_bench.report.measured import record, shared_settings
from tcm_bench.report.picture import COLORS, as_it_is, plain_axes, write_picture
from tcm_bench.report.scores import compared, score
from tcm_bench.report.source import Source
from tcm_bench.results.labels import Label, is_base, labels
from tcm_bench.results.ledger import Result, Run, read_result

STEPS = 241  # of the drawn axis; OPIS itself comes from the row
MARGIN = 0.3  # of the calibration range, drawn on either side of it
MOST_CURVES = 100
WIDTH = 56  # letters of a title that fit above a panel
LIMITS = {"distance": (0.0, 2.0), "similarity": (-1.0, 1.0)}
AXIS_LABELS = {"distance": "threshold: L2 distance", "similarity": "threshold: cosine similarity"}


@dataclass(frozen=True)
class Curves:
    """What is drawn of one set: `utilities` `(classes, thresholds)` in [0, 1] over `thresholds`."""

    thresholds: np.ndarray
    utilities: np.ndarray


@dataclass(frozen=True)
class Panel:
    """What one side of the figure needs to know.

    Attributes:
        name: Of the network.
        run: What it comes from, if that is a run.
        scores: By their names in rows; None where undefined.
        axis: Of the thresholds.
        ends: Of the calibration range.
        curves: Of all classes that have a positive pair, at increasing thresholds; a stored evaluation has curves at
            thresholds of its own, and gives those.
    """

    name: str
    run: Result | None
    scores: Mapping[str, float | None]
    axis: str
    ends: tuple[float, float]
    curves: Callable[[np.ndarray], Curves]


def utility_figure(base: Source, tcm: Source) -> Figure:
    """Per-class utility over the threshold, two networks side by side on the same axes.

    Thin lines are classes: at most `MOST_CURVES`, spread evenly over the labels, so the same ones for the
    same data. The band holds the middle 80 % of all classes at each threshold, the bold line is their
    unweighted mean. Between the dashed lines lies the calibration range over which OPIS is taken; each network
    has its own. A stored evaluation has no curves beyond it.

    Args:
        base: Drawn left: a finished run, a stored evaluation, or vectors. The latter are measured as the other side
            was.
        tcm: Drawn right.

    Returns:
        A figure of 9 by 4 inches that belongs to no global state.

    Raises:
        ValueError: If a run has not finished, there is no calibration range, there are no stored embeddings, or the
            two were measured on different axes.
    """
    settings = shared_settings((base, tcm))
    sides = [_panel(source, settings) for source in (base, tcm)]
    axes_used = [side.axis for side in sides]
    if axes_used[0] != axes_used[1]:
        raise ValueError(f"the runs measured on different threshold axes ({' and '.join(axes_used)}); give two of one")
    axis = axes_used[0]
    thresholds = _drawn_axis(sides, axis)
    runs = [side.run for side in sides if side.run]
    tasks = {run.run_id: _task(label) for run, label in zip(runs, labels(runs), strict=True)}
    same_task = len(runs) == 2 and runs[0].comparison_id == runs[1].comparison_id
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, side, color in zip(panels, sides, COLORS, strict=False):
        _draw(panel, side, thresholds, color)
        task = tasks[side.run.run_id] if side.run and not same_task else ""
        panel.set_title(as_it_is(_title(side, task)), fontsize=10)
        panel.set_xlabel(AXIS_LABELS[axis])
    panels[0].set(ylabel="utility of a class", ylim=(0, 1), xlim=(thresholds[0], thresholds[-1]))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    tested = ", ".join(dict.fromkeys(run.tested for run in runs)) or "unseen classes"
    title = f"One line per class, {tested}" + (f": {tasks[runs[0].run_id]}" if same_task else "")
    figure.suptitle(as_it_is(fill(title, 2 * WIDTH)), fontsize=11)
    return figure


def classes_figure(folder: Path, most: int = MOST_CURVES) -> Figure:
    """The same of one stored evaluation, over its calibration range.

    Args:
        folder: A run's, or any that `tcm_bench.evaluation.files.write_evaluation` wrote into.
        most: Classes that have a line of their own, spread evenly over the labels.

    Returns:
        A figure of 5 by 4 inches that belongs to no global state.

    Raises:
        ValueError: If there is no evaluation, or no calibration range.
    """
    side = _record_panel(Source("evaluation", folder), Settings())
    figure = Figure(figsize=(5, 4), layout="constrained")
    panel = figure.subplots()
    thresholds = _drawn_axis([side], side.axis)
    _draw(panel, side, thresholds, COLORS[0], most)
    panel.set(xlabel=AXIS_LABELS[side.axis], ylabel="utility of a class", ylim=(0, 1), xlim=thresholds[[0, -1]])
    panel.set_title(as_it_is(_title(side, "")), fontsize=10)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def spread(count: int, most: int) -> np.ndarray:
    """At most so many of `count` places, evenly spaced: the same for the same data."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def write_utility_figure(base: Source, tcm: Source, path: Path) -> Path:
    """Draw `utility_figure` into a file; its suffix says how.

    The file says in its metadata which runs of which comparison were drawn, and their OPIS.

    Raises:
        ValueError: As `tcm_bench.report.picture.write_picture` and `utility_figure` say.
    """
    return write_picture(path, lambda: utility_figure(base, tcm), runs_told((base, tcm)))


def runs_told(sources: Iterable[Source]) -> str | None:
    """What a picture says of the runs that are drawn in it; None if there are none."""
    runs = [read_result(source.path) for source in sources if source.kind == "run"]
    told = [
        f"run {run.run_id} of comparison {run.comparison_id}, OPIS {run.metrics.get('opis')}" for run in runs if run
    ]
    return "; ".join(told) or None


def _panel(source: Source, settings: Settings) -> Panel:
    return _run_panel(source) if source.kind == "run" else _record_panel(source, settings)


def _run_panel(source: Source) -> Panel:
    """Of a run by its row."""
    run = finished_run(source)
    axis, c = Settings.of(run.threshold).cost, float(run.threshold["c"])
    return Panel(
        name=arm_name(run),
        run=run,
        scores=run.metrics,
        axis=axis,
        ends=_range(f"run {run.run_id}", run.threshold, run.reason),
        curves=lambda thresholds: curves_of_vectors(source.vectors(), thresholds, axis=axis, c=c),
    )


def finished_run(source: Source) -> Result:
    """The row of a run.

    Raises:
        ValueError: If it has not finished.
    """
    run = read_result(source.path)
    if run is None or run.status != "finished":
        raise ValueError(
            f"{source.path} holds no finished run ({run.status if run else 'no result.json'}); let it finish first"
        )
    return run


def arm_name(run: Run) -> str:
    """What a run is called beside one of the other arm."""
    return "without TCM" if is_base(run) else "with TCM"


def _record_panel(source: Source, settings: Settings) -> Panel:
    """Of an evaluation, stored or made now."""
    found = record(source, settings)
    used, scores = found.numbers["settings"], found.numbers
    axis = Settings.of(used).cost

    def curves(thresholds: np.ndarray) -> Curves:
        if source.kind == "vectors":
            return curves_of_vectors(source.path, thresholds, axis=axis, c=used["c"])
        utilities = found.per_class.utilities.numpy()
        return Curves(found.thresholds, utilities[~np.isnan(utilities).any(axis=1)])

    return Panel(
        name=found.source.name,
        run=None,
        scores=scores,
        axis=axis,
        ends=_range(str(found.source), scores, scores["reason"]),
        curves=curves,
    )


def _range(what: str, numbers: Mapping[str, Any], reason: str | None) -> tuple[float, float]:
    """The calibration range, if there is one."""
    low, high = (numbers.get(name) for name in ("threshold_low", "threshold_high"))
    if low is None or high is None or not low < high:  # NaN is not below anything
        raise ValueError(f"{what} has no calibration range to draw ({reason or 'its ends coincide'})")
    return low, high


def curves_of_vectors(file: Path, thresholds: np.ndarray, *, axis: str, c: float) -> Curves:
    """Utility of every class that has a positive pair, in float64.

    Args:
        file: See `tcm_bench.data.datasets.vectors.vector_set`.
        thresholds: Increasing, in units of the axis.
        axis: `distance` or `similarity`.
        c: Weight of sensitivity against specificity.

    Raises:
        ValueError: If the file cannot be read.
    """
    given = vector_set(file)
    assert given.labels is not None
    counted = operating_curves(given.vectors.double(), given.labels, torch.from_numpy(thresholds), axis=cast(Any, axis))
    kept = counted.positives > 0
    return Curves(thresholds, utility(counted.sensitivity[kept], counted.specificity[kept], c=c).numpy())


def _drawn_axis(sides: list[Panel], axis: str) -> np.ndarray:
    low, high = min(side.ends[0] for side in sides), max(side.ends[1] for side in sides)
    margin = MARGIN * (high - low)
    return np.linspace(max(low - margin, LIMITS[axis][0]), min(high + margin, LIMITS[axis][1]), STEPS)


def _draw(panel: Axes, side: Panel, thresholds: np.ndarray, color: str, most: int = MOST_CURVES) -> None:
    curves = side.curves(thresholds)
    x, values = curves.thresholds, curves.utilities
    lines = panel.plot(x, values[spread(len(values), most)].T, color=color, alpha=0.22, linewidth=0.6)
    lines[0].set_label("one class")
    low, high = np.quantile(values, (0.1, 0.9), axis=0)
    panel.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0, label="middle 80 % of the classes")
    panel.plot(x, values.mean(axis=0), color="black", linewidth=2.2, label=f"mean of {len(values)} classes")
    for i, end in enumerate(side.ends):
        panel.axvline(end, color="0.25", linestyle="--", linewidth=1, label="_" if i else "calibration range")
    plain_axes(panel)


def _title(side: Panel, task: str) -> str:
    shown = [score(name).shown(side.scores.get(name), 1) for name in compared(side.scores)]
    name = fill(f"{side.name}{f': {task}' if task else ''}", WIDTH)
    return f"{name}\n{'   '.join(shown)}"


def _task(label: Label) -> str:
    return ", ".join(filter(None, [*label[:4], f"seed {label.seed}"]))
