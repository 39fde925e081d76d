"""Accuracy against consistency: does better retrieval cost it, and does TCM lie nearer to both axes?"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tcm_bench.report.comparison import tcm_kinds
from tcm_bench.report.fold import BASE_ARM
from tcm_bench.report.picture import COLORS, as_it_is, plain_axes, write_picture
from tcm_bench.report.scores import Score, compared, score

MARKERS = "osD^vP*Xph<>d8"
SMALLEST, LARGEST = 30.0, 150.0  # areas of markers, in square points
COLUMNS = 4  # of panels


def front(recall: np.ndarray, opis: np.ndarray) -> np.ndarray:
    """Which points no other one beats: the Pareto front, by increasing R@1.

    Args:
        recall: `(points,)`, higher is better.
        opis: `(points,)`, lower is better.

    Returns:
        Indices of the points, without doubles; along them OPIS rises with R@1.

    Example:
        >>> front(np.array([0.7, 0.8, 0.6, 0.75]), np.array([3.0, 5.0, 4.0, 3.5])).tolist()
        [0, 3, 1]
    """
    kept: list[int] = []
    for point in np.lexsort((opis, -recall)):  # the highest R@1 first
        if not kept or opis[point] < opis[kept[-1]]:
            kept.append(int(point))
    return np.array(kept[::-1], dtype=int)


def pareto_figure(rows: pd.DataFrame) -> Figure:
    """R@1 against OPIS of all comparisons, a panel for each data set and backbone; down and to the right is better.

    A marker's shape is the loss, its size the setting in which comparisons of that loss differ (such as the batch), its
    color the arm; an arrow leads from each baseline to its TCM. Steps are the front of each arm: no network of the arm
    has both more R@1 and less OPIS.

    Args:
        rows: As `tcm_bench.report.fold.fold` makes them, or their csv; means over seeds, fractions. Those without a
            value of both arms are left out.

    Returns:
        A figure that belongs to no global state.

    Raises:
        ValueError: If no comparison has both arms.
    """
    rows, recall, opis = _complete(rows)
    groups = list(rows.groupby(["data", "backbone"], sort=False))
    shapes = {loss: MARKERS[n % len(MARKERS)] for n, loss in enumerate(dict.fromkeys(rows["loss"]))}
    settings = sorted(dict.fromkeys(rows["setting"]), key=_natural)
    sizes = dict(zip(settings, np.linspace(SMALLEST, LARGEST, len(settings)), strict=True))
    arms = dict(zip([BASE_ARM, *dict.fromkeys(rows["kind"])], COLORS * len(rows), strict=False))
    across = min(COLUMNS, len(groups))
    down = -(-len(groups) // across)
    figure = Figure(figsize=(8.5, 6) if len(groups) == 1 else (3.2 * across + 1, 3 * down + 1), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for panel, ((data, backbone), group) in zip(panels, groups, strict=False):
        _draw(panel, group, recall, opis, shapes, sizes, arms)
        panel.set_title(as_it_is(f"{data}, {backbone}"), fontsize=10)
    for panel in panels[len(groups) :]:
        panel.set_visible(False)
    figure.supxlabel(f"{recall.title}, {recall.unit}: better to the right")
    figure.supylabel(f"{opis.title}, {opis.unit}: better below")
    seeds = sorted(set(rows["seeds"]))
    figure.suptitle(
        f"Mean of {_listed(seeds)} seed{'s' * (seeds != [1])}; arrows from a baseline to its TCM", fontsize=10
    )
    figure.legend(handles=_legend(shapes, sizes, arms), loc="outside right center", frameon=False, fontsize="small")
    return figure


def write_pareto_figure(rows: pd.DataFrame, path: Path) -> Path:
    """Draw `pareto_figure` into a file, which says in its metadata of which rows: by the hash of their csv.

    Raises:
        ValueError: As `tcm_bench.report.picture.write_picture` and `pareto_figure` say.
    """
    csv = rows.to_csv(index=False, lineterminator="\n")
    told = f"{len(rows)} comparisons, {hashlib.sha256(csv.encode()).hexdigest()}"
    return write_picture(path, lambda: pareto_figure(rows), told, dpi=110)


def pareto_claims(rows: pd.DataFrame) -> list[str]:
    """What `pareto_figure` shows, in sentences: the baselines' front first, then how TCM lies to it.

    Args:
        rows: See `pareto_figure`.

    Raises:
        ValueError: As `pareto_figure`.
    """
    rows, recall, opis = _complete(rows)
    found = []
    for (data, backbone), group in rows.groupby(["data", "backbone"], sort=False):
        base = group.drop_duplicates("comparison_id")
        x, y = _points(base, recall, opis, "base")
        best = front(x, y)
        names = (base["loss"] + " " + base["setting"]).str.strip().to_numpy()
        ends = [f"{x[one]:.1f} {recall.unit} and {y[one]:.1f}{opis.unit} ({names[one]})" for one in best[[-1, 0]]]
        told = f"{data}, {backbone}: of {len(base)} baselines the highest {recall.title} has {ends[0]}"
        if len(best) > 1:
            told += f", the least {opis.title} {ends[1]}; {len(best)} make the front"
        else:
            told += f", and the least {opis.title}, too"
        if len(base) > 2 and len(set(x)) > 1 and len(set(y)) > 1:
            ranks = pd.Series(x).rank().corr(pd.Series(y).rank())
            told += f"; rank correlation of {recall.title} and {opis.title} {ranks:+.2f}"
        found.append(told)
        for kind, of in group.groupby("kind", sort=False):
            (x0, y0), (x1, y1) = (_points(of, recall, opis, arm) for arm in ("base", "tcm"))
            more, less = x1 > x0, y1 < y0
            beaten = sum(bool(((x1 > x[one]) & (y1 < y[one])).any()) for one in best)
            found.append(
                f"TCM {kind}: of {len(of)} {more.sum()} have more {recall.title}, {less.sum()} less {opis.title}, "
                f"{(more & less).sum()} both, {(~more & ~less).sum()} neither; of the baselines' front {beaten} of "
                f"{len(best)} are beaten in both by one with TCM"
            )
    return found


def _complete(rows: pd.DataFrame) -> tuple[pd.DataFrame, Score, Score]:
    """Rows that have a value of both arms, with their `kind` of TCM, and the two scores."""
    names = [column.removesuffix("_base") for column in rows if column.endswith("_base")]
    recall, opis, *_ = map(score, compared(names))
    rows = rows.astype({"setting": object, "tcm": object}).fillna({"setting": "", "tcm": ""})  # what a csv leaves empty
    rows = rows.assign(kind=tcm_kinds(rows)).dropna(
        subset=[f"{metric.name}_{arm}" for metric in (recall, opis) for arm in ("base", "tcm")]
    )
    if rows.empty:
        raise ValueError("no comparison has a finished run of both arms, without TCM and with it, of the same seed")
    return rows, recall, opis


def _points(rows: pd.DataFrame, recall: Score, opis: Score, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Both scores of an arm, in their units."""
    x, y = (metric.scale * rows[f"{metric.name}_{arm}"].to_numpy() for metric in (recall, opis))
    return x, y


def _draw(
    panel: Axes,
    rows: pd.DataFrame,
    recall: Score,
    opis: Score,
    shapes: dict[str, str],
    sizes: dict[str, float],
    arms: dict[str, str],
) -> None:
    base = rows.drop_duplicates(["comparison_id"])
    shown = [(BASE_ARM, base, "base"), *((str(kind), of, "tcm") for kind, of in rows.groupby("kind", sort=False))]
    ends = (np.column_stack(_points(rows, recall, opis, arm)) for arm in ("base", "tcm"))
    for start, end in zip(*ends, strict=True):
        panel.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "0.6", "linewidth": 0.7}, zorder=1)
    for name, of, arm in shown:
        x, y = _points(of, recall, opis, arm)
        for across, up, loss, setting in zip(x, y, of["loss"], of["setting"], strict=True):
            panel.scatter(
                across, up, s=sizes[setting], marker=shapes[loss], color=arms[name], edgecolors="white", linewidths=0.5,
                alpha=0.85, zorder=3,
            )  # fmt: skip
        best = front(x, y)
        panel.step(x[best], y[best], where="pre", color=arms[name], linewidth=1.2, zorder=2)
    plain_axes(panel)


def _legend(shapes: dict[str, str], sizes: dict[str, float], arms: dict[str, str]) -> list[Line2D]:
    """Arms, losses, settings; what all have alike is not told."""

    def mark(label: str, marker: str = "o", size: float = 60.0, color: str = "0.4") -> Line2D:
        return Line2D([], [], linestyle="none", marker=marker, markersize=size**0.5, color=color, label=as_it_is(label))

    return [
        *(mark("without TCM" if name == BASE_ARM else f"TCM {name}", color=color) for name, color in arms.items()),
        *(mark(loss, marker) for loss, marker in shapes.items()),
        *(mark(setting or "otherwise", size=size) for setting, size in sizes.items() if len(sizes) > 1),
    ]


def _natural(text: str) -> list[tuple[float, str]]:
    """A key to sort by in which 16 comes after 8."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(float(part), "") if number % 2 else (0.0, part) for number, part in enumerate(parts)]


def _listed(values: Sequence[int]) -> str:
    return " or ".join(map(str, values))
