"""Embeddings of two dimensions where they lie: on a circle. How compact are the classes, and how far apart?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from tcm_bench.data.datasets.vectors import vector_set
from tcm_bench.report.curves import arm_name, finished_run, runs_told
from tcm_bench.report.picture import as_it_is, write_picture
from tcm_bench.report.scores import compared, score
from tcm_bench.report.source import Source
from tcm_bench.results.labels import labels
from tcm_bench.results.ledger import Result
from tcm_bench.unit_norm import unit_norm

BINS = 1440  # of the circle: a quarter of a degree
BANDWIDTH = 1.5  # degrees; of the kernel, a normal distribution wound around the circle
COLORS = [entry["color"] for entry in style.library["petroff10"]["axes.prop_cycle"]]  # Petroff 2021: ten, for all eyes
HEIGHT = 1.0  # of the highest peak, in radii
NEGLIGIBLE = 0.005  # in radii: nothing is drawn below
WIDTH = 60  # letters of a title that fit above a panel


@dataclass(frozen=True)
class Clusters:
    """Classes of embeddings on a circle.

    Attributes:
        names: Of the classes.
        angles: Of the embeddings of each class, in radians.
    """

    names: Sequence[str]
    angles: Sequence[np.ndarray]

    @property
    def _means(self) -> np.ndarray:
        """Of the embeddings of each class, as complex numbers."""
        return np.array([np.exp(1j * angles).mean() for angles in self.angles])

    @property
    def centers(self) -> np.ndarray:
        """Circular mean of each class, in radians from -pi to pi."""
        return np.angle(self._means)

    @property
    def spreads(self) -> np.ndarray:
        """Circular standard deviation of each class, in degrees: sqrt(-2 ln R) of the length R of its mean."""
        return np.degrees(np.sqrt(-2 * np.log(np.minimum(np.abs(self._means), 1))))

    @property
    def smallest_gap(self) -> float:
        """Between the centers of neighbors, in degrees: 360 over their number is the most there can be."""
        ordered = np.sort(self.centers)
        return float(np.degrees(np.diff(ordered, append=ordered[0] + 2 * np.pi).min()))

    def __str__(self) -> str:
        """What a title says."""
        return f"spread within a class {self.spreads.mean():.1f}°, smallest gap {self.smallest_gap:.1f}°"


def clusters(file: Path) -> Clusters:
    """The classes of a file of vectors.

    Args:
        file: See `tcm_bench.data.datasets.vectors.vector_set`.

    Raises:
        ValueError: If it cannot be read, or its vectors are not of two dimensions.
    """
    given = vector_set(file)
    assert given.labels is not None
    if given.vectors.shape[1] != 2:
        raise ValueError(
            f"{file}: its embeddings have {given.vectors.shape[1]} dimensions, and a circle shows 2: train with "
            "model.head.embedding_dim=2"
        )
    x, y = unit_norm(given.vectors.double()).numpy().T
    angles, numbers = np.arctan2(y, x), given.labels.numpy()
    return Clusters([str(name) for name in given.classes], [angles[numbers == n] for n in range(len(given.classes))])


def density(angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A kernel density on the circle.

    Args:
        angles: In radians.

    Returns:
        `BINS` angles from -pi on, in radians, and the density there, in shares of the embeddings a degree.
    """
    step = 2 * np.pi / BINS
    counts = np.bincount((np.floor((angles + np.pi) / step).astype(int)) % BINS, minlength=BINS) / len(angles)
    kernel = np.exp(-0.5 * (np.arange(BINS // 2 + 1) * np.radians(BANDWIDTH)) ** 2)  # its Fourier transform
    smooth = np.fft.irfft(np.fft.rfft(counts) * kernel, BINS)
    return -np.pi + (np.arange(BINS) + 0.5) * step, np.maximum(smooth, 0) / np.degrees(step)


def circle_figure(base: Source, tcm: Source) -> Figure:
    """The embeddings of two networks on their circles, and outside of each the density of every class.

    A dot is an embedding. The densities of both are drawn to one scale, and a class has one color in both.

    Args:
        base: Drawn left: a finished run, or vectors.
        tcm: Drawn right.

    Returns:
        A figure of 10 by 5.8 inches that belongs to no global state.

    Raises:
        ValueError: If a run has not finished, or embeddings are missing or not of two dimensions.
    """
    sources = (base, tcm)
    runs = [finished_run(source) if source.kind == "run" else None for source in sources]
    sides = [clusters(source.vectors()) for source in sources]
    curves = [[density(angles) for angles in side.angles] for side in sides]
    highest = max(values.max() for side in curves for _, values in side)
    figure = Figure(figsize=(10, 5.8), layout="constrained")
    panels = figure.subplots(1, 2, subplot_kw={"projection": "polar"})
    for panel, side, densities, source, run in zip(panels, sides, curves, sources, runs, strict=True):
        _draw(panel, side, [(at, 1 + HEIGHT * values / highest) for at, values in densities])
        panel.set_title(as_it_is(_title(side, source, run)), fontsize=10)
    figure.suptitle(as_it_is(fill(_task([run for run in runs if run]), 2 * WIDTH)), fontsize=11)
    return figure


def write_circle_figure(base: Source, tcm: Source, path: Path) -> Path:
    """Draw `circle_figure` into a file, which says in its metadata which runs were drawn.

    Raises:
        ValueError: As `tcm_bench.report.picture.write_picture` and `circle_figure` say.
    """
    return write_picture(path, lambda: circle_figure(base, tcm), runs_told((base, tcm)), dpi=100)


def _draw(panel: PolarAxes, side: Clusters, outlines: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    order = np.argsort(side.centers)
    for number, (name, angles, (at, radius)) in enumerate(zip(side.names, side.angles, outlines, strict=True)):
        color = COLORS[number % len(COLORS)]
        panel.plot(angles, np.full_like(angles, 0.97), ".", color=color, markersize=2, alpha=0.3)
        seen = np.where(radius > 1 + NEGLIGIBLE, radius, np.nan)
        panel.fill_between(at, 1, seen, color=color, alpha=0.45, linewidth=0)
        panel.plot(at, seen, color=color, linewidth=1)
        inside = 0.85 - 0.15 * (order.tolist().index(number) % 3)  # neighbors apart, wherever they lie
        panel.text(
            side.centers[number], inside, as_it_is(name), color=color, fontweight="bold", ha="center", va="center"
        )
    panel.set(ylim=(0, 1 + HEIGHT), xticks=[], yticks=[])
    panel.spines["polar"].set_visible(False)
    panel.grid(visible=False)


def _title(side: Clusters, source: Source, run: Result | None) -> str:
    name = arm_name(run) if run else source.path.name
    shown = [score(name).shown(run.metrics.get(name), 1) for name in compared(run.metrics)[:2]] if run else []
    return "\n".join([name, str(side), "   ".join(shown)]).rstrip()


def _task(runs: Sequence[Result]) -> str:
    """What the runs were asked, and whether of classes that they had never seen."""
    if not runs:
        return ""
    what = ", ".join(dict.fromkeys(run.tested for run in runs)).capitalize()
    tasks = [f"{label.task}, seed {label.seed}" for label in labels(runs)]
    return f"{what}: {'; '.join(dict.fromkeys(tasks))}"
