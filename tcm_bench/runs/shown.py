"""What can be looked at of a run that has been measured, made from the files that it keeps: curves and neighbors."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from pyarrow import compute, parquet
from safetensors.torch import load_file

from tcm_bench.data.table import ImageTable
from tcm_bench.evaluation.files import CURVES
from tcm_bench.report.curves import classes_figure, spread
from tcm_bench.report.picture import COLORS
from tcm_bench.report.sheets import NEIGHBORS, neighbors
from tcm_bench.results.ledger import EMBEDDINGS

COLUMNS = ("threshold", "sensitivity", "specificity", "utility")
SIDE_PX, FRAME_PX = 96, 4
MOST_THRESHOLDS = 21  # of a curve in the table: W&B takes half a second for all
RIGHT, WRONG = COLORS[:2]


class Panel(NamedTuple):
    """A query and its nearest, side by side: `pixels` uint8 `(height, width, 3)`, and in words which are right."""

    pixels: np.ndarray
    caption: str


def curves_picture(run_dir: Path, most: int) -> np.ndarray:
    """Utility curves of at most so many test classes, their mean and spread: uint8 `(height, width, 3)`.

    Raises:
        ValueError: If there is no calibration range to draw them over.
    """
    file = io.BytesIO()
    classes_figure(run_dir, most).savefig(file, dpi=120)
    return np.asarray(Image.open(file).convert("RGB"))


def curves_table(run_dir: Path, class_names: Sequence[str], most: int) -> tuple[list[str], list[list[Any]]]:
    """The same curves as columns and rows, one row a class and threshold; these lie evenly in the calibration range."""
    table = parquet.read_table(run_dir / CURVES, columns=["label", *COLUMNS])
    labels = np.unique(table["label"].to_numpy())
    thresholds = np.unique(table["threshold"].to_numpy())
    thresholds = thresholds[spread(len(thresholds), MOST_THRESHOLDS)]
    kept = table.filter(
        compute.field("label").isin(labels[spread(len(labels), most)].tolist())
        & compute.field("threshold").isin(thresholds.tolist())
    )
    rows = zip(*(kept[name].to_pylist() for name in ("label", *COLUMNS)), strict=True)
    return ["class", *COLUMNS], [[class_names[label], *values] for label, *values in rows]


def panels(run_dir: Path, images: ImageTable, most: int) -> list[Panel]:
    """At most so many queries, spread evenly over the test images, each with its nearest among what is searched.

    The queries are the same for every run on the same data. Cosines are rounded to float32, which is enough to look at.
    """
    stored = load_file(run_dir / EMBEDDINGS)
    rows = stored["indices"].tolist()
    queries = stored.get("query", torch.ones(len(rows), dtype=torch.bool)).nonzero()[:, 0]
    queries = queries[spread(len(queries), most)]
    nearest, _ = neighbors(stored["embeddings"], queries, NEIGHBORS, gallery=stored.get("gallery"))
    return [
        _panel(images, rows[query], [rows[one] for one in found])
        for query, found in zip(queries.tolist(), nearest.tolist(), strict=True)
    ]


def _panel(images: ImageTable, query: int, nearest: Sequence[int]) -> Panel:
    strip, words = [_framed(images, query, "black"), np.full((SIDE_PX, FRAME_PX, 3), 255, np.uint8)], []
    for row in nearest:
        is_right = images.labels[row] == images.labels[query]
        strip.append(_framed(images, row, RIGHT if is_right else WRONG))
        words.append("right" if is_right else f"wrong ({images.class_names[images.labels[row]]})")
    return Panel(np.concatenate(strip, axis=1), f"{images.class_names[images.labels[query]]}: {', '.join(words)}")


def _framed(images: ImageTable, row: int, color: str) -> np.ndarray:
    inside = SIDE_PX - 2 * FRAME_PX
    small = ImageOps.pad(images.image(row), (inside, inside), color="white")
    return np.asarray(ImageOps.expand(small, FRAME_PX, color))
