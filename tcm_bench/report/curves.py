"""Utility curves of the classes of two runs: how far from each other do classes want their threshold?"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from safetensors import SafetensorError
from safetensors.torch import load_file

from tcm_bench.functional.threshold import operating_curves, utility
from tcm_bench.ledger import EMBEDDINGS, Result, read_result

STEPS = 241  # of the drawn axis; OPIS itself comes from the row
MARGIN = 0.3  # of the calibration range, drawn on either side of it
MOST_CURVES = 100
COLORS = (
    "#0072B2",
    "#D55E00",
)  # Okabe and Ito: blue and vermilion stay apart for every kind of color vision
LIMITS = {"distance": (0.0, 2.0), "similarity": (-1.0, 1.0)}
AXIS_LABELS = {"distance": "threshold: L2 distance", "similarity": "threshold: cosine similarity"}
FORMATS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Curves:
    """What is drawn of one run: `utilities` `(classes, steps)` in [0, 1] over `thresholds` `(steps,)`."""

    thresholds: np.ndarray
    utilities: np.ndarray


def utility_figure(base: Path, tcm: Path) -> Figure:
    """Per-class utility over the threshold, two runs side by side on the same axes.

    Thin lines are classes: at most `MOST_CURVES`, spread evenly over the labels, so the same ones for the
    same data. The band holds the middle 80 % of all classes at each threshold, the bold line is their
    unweighted mean. Between the dashed lines lies the calibration range over which OPIS is taken; each run
    has its own.

    Args:
        base: Folder of a finished run, drawn left.
        tcm: Folder of another one, drawn right.

    Returns:
        A figure of 9 by 4 inches that belongs to no global state.

    Raises:
        ValueError: If a run has not finished, has no calibration range or no stored embeddings, or if the two
            measured on different axes.
    """
    folders = (base, tcm)
    runs = [_finished(folder) for folder in folders]
    axes_used = [str(run.threshold["axis"]) for run in runs]
    if axes_used[0] != axes_used[1]:
        raise ValueError(f"the runs measured on different threshold axes ({' and '.join(axes_used)}); give two of one")
    axis = axes_used[0]
    thresholds = _drawn_axis(runs, axis)
    same_task = runs[0].comparison_id == runs[1].comparison_id
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, folder, run, color in zip(panels, folders, runs, COLORS, strict=True):
        _draw(panel, curves_of_run(folder, run, thresholds), run, color)
        panel.set_title(_title(run, in_full=not same_task), fontsize=10)
        panel.set_xlabel(AXIS_LABELS[axis])
    panels[0].set(ylabel="utility of a class", ylim=(0, 1), xlim=(thresholds[0], thresholds[-1]))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("One line per unseen class" + (f": {_task(runs[0])}" if same_task else ""), fontsize=11)
    return figure


def write_utility_figure(base: Path, tcm: Path, path: Path) -> Path:
    """Draw `utility_figure` into a file; its suffix, one of `FORMATS`, says how.

    Raises:
        ValueError: If the suffix is another one, or as `utility_figure` says.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot draw into '{path.name}'; end the name in one of {', '.join(FORMATS)}")
    figure = utility_figure(base, tcm)
    path.parent.mkdir(parents=True, exist_ok=True)
    unsaid = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    figure.savefig(path, dpi=200, metadata=unsaid[path.suffix.lower()])
    return path


def curves_of_run(folder: Path, run: Result, thresholds: np.ndarray) -> Curves:
    """Utility of every class that has a positive pair, in float64 from the run's stored embeddings.

    Args:
        folder: Where the embeddings lie.
        run: The run's row, for axis and `c`.
        thresholds: Increasing, in units of the run's axis.

    Raises:
        ValueError: If there are no embeddings or the file is no such file.
    """
    path = folder / EMBEDDINGS
    try:
        stored = load_file(path)
        embeddings, labels = stored["embeddings"], stored["labels"]
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist; run {run.run_id} again with force=true") from error
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} does not hold embeddings and labels ({error}); run it again with force=true"
        ) from error
    counted = operating_curves(embeddings.double(), labels, torch.from_numpy(thresholds), axis=run.threshold["axis"])
    kept = counted.positives > 0
    values = utility(counted.sensitivity[kept], counted.specificity[kept], c=run.threshold["c"])
    return Curves(thresholds=thresholds, utilities=values.numpy())


def _finished(folder: Path) -> Result:
    run = read_result(folder)
    if run is None or run.status != "finished":
        raise ValueError(
            f"{folder} holds no finished run ({run.status if run else 'no result.json'}); let it finish first"
        )
    low, high = (run.threshold.get(name) for name in ("d_min", "d_max"))
    if low is None or high is None or not low < high:  # NaN is not below anything
        raise ValueError(f"run {run.run_id} has no calibration range to draw ({run.reason or 'its ends coincide'})")
    return run


def _drawn_axis(runs: list[Result], axis: str) -> np.ndarray:
    low = min(run.threshold["d_min"] for run in runs)
    high = max(run.threshold["d_max"] for run in runs)
    margin = MARGIN * (high - low)
    return np.linspace(max(low - margin, LIMITS[axis][0]), min(high + margin, LIMITS[axis][1]), STEPS)


def _draw(panel: Axes, curves: Curves, run: Result, color: str) -> None:
    x, values = curves.thresholds, curves.utilities
    number = min(MOST_CURVES, len(values))
    sample = np.linspace(0, len(values) - 1, number).round().astype(int)
    lines = panel.plot(x, values[sample].T, color=color, alpha=0.22, linewidth=0.6)
    lines[0].set_label("one class")
    low, high = np.quantile(values, (0.1, 0.9), axis=0)
    panel.fill_between(x, low, high, color=color, alpha=0.25, linewidth=0, label="middle 80 % of the classes")
    panel.plot(x, values.mean(axis=0), color="black", linewidth=2.2, label=f"mean of {len(values)} classes")
    ends = [run.threshold["d_min"], run.threshold["d_max"]]
    for i, end in enumerate(ends):
        panel.axvline(end, color="0.25", linestyle="--", linewidth=1, label="_" if i else "calibration range")
    panel.grid(color="0.9", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _title(run: Result, *, in_full: bool) -> str:
    name = "without TCM" if run.choices.get("tcm") == "none" else "with TCM"
    if in_full:
        name = f"{name}: {_task(run)}"
    numbers = [
        ("R@1", "recall_at_1", 100, " %"),
        ("OPIS", "opis", 1000, "e-3"),
        ("10%-OPIS", "opis_10pct", 1000, "e-3"),
    ]
    shown = []
    for title, key, scale, unit in numbers:
        value = run.metrics.get(key)
        shown.append(f"{title} undefined" if value is None else f"{title} {value * scale:.1f}{unit}")
    return f"{name}\n{'   '.join(shown)}"


def _task(run: Result) -> str:
    return ", ".join(str(run.choices[k]) for k in ("data", "backbone", "loss") if k in run.choices) + (
        f", seed {run.choices['seed']}" if "seed" in run.choices else ""
    )
