"""The debug modes: a run of a few images, to see that it runs (`debug=fast`) or that it learns (`debug=overfit`).

What they measure is of a part of the data and no result: `conf/debug/_apart.yaml` gives it a folder of its own, its row
has a status of its own, and no table takes it.
"""

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tcm_bench.data.redraw import subset
from tcm_bench.data.table import Splits, Table
from tcm_bench.report.scores import compared, score
from tcm_bench.results.ledger import HISTORY, Result

BY_HEART = 0.95  # share of the trained images whose nearest is of their class


def few(splits: Splits, classes: int, images_per_class: int, further_classes: int = 0) -> Splits:
    """A few classes of both sides with a few images of each: the first that have as many, else the largest.

    Args:
        splits: Training and test tables.
        classes: Of each side; all if there are fewer.
        images_per_class: Of each; where items have roles, as many queries and as many of the gallery.
        further_classes: More of them in training, such as are held out.
    """
    return replace(
        splits,
        train=_few(splits.train, classes + further_classes, images_per_class),
        test=_few(splits.test, classes, images_per_class),
        fingerprint=f"{splits.fingerprint}, {classes} + {further_classes} classes of {images_per_class}",
    )


def _few(table: Table, classes: int, images_per_class: int) -> Table:
    everything = np.ones(len(table), dtype=bool)
    roles = [everything if role is None else role for role in (table.query, table.gallery)]
    counts = np.min([np.bincount(table.labels[role], minlength=table.num_classes) for role in roles], axis=0)
    largest = np.argsort(-np.minimum(counts, images_per_class), kind="stable")
    kept = np.sort(largest[:classes])
    rows = np.unique(
        np.concatenate(
            [np.flatnonzero(role & (table.labels == name))[:images_per_class] for role in roles for name in kept]
        )
    )
    return subset([table], kept, rows)


def verdict(result: Result, run_dir: Path) -> Iterator[str]:
    """What a debug run has shown, in lines for a person.

    Args:
        result: Its row.
        run_dir: Its folder.
    """
    classes, images = result.counts["train_classes"], result.counts["train_images"]
    yield f"no result: trained on {images} images of {classes} classes; not in any table"
    if result.science["debug"]["mode"] != "overfit":
        return
    with (run_dir / HISTORY).open(encoding="utf-8") as file:
        rows = [(int(row["step"]), float(row["train/loss"])) for row in csv.DictReader(file)]
    shown = [rows[place] for place in sorted({round(share * (len(rows) - 1)) for share in (0, 0.25, 0.5, 0.75, 1)})]
    falls = rows[-1][1] < rows[0][1]
    yield (
        f"loss: {', '.join(f'{loss:.3g} at step {step}' for step, loss in shown)}: "
        f"{'it falls' if falls else 'it does not fall'}"
    )
    recall, *_ = compared(result.metrics)
    known = result.metrics[f"{recall}_seen"] or 0.0
    remedy = "take more steps (trainer.max_epochs), another optim.optimizer.lr, or look for a fault in model or loss"
    learned = "learned by heart" if falls and known >= BY_HEART else f"not learned by heart: {remedy}"
    yield f"{score(recall).title} on these images {100 * known:.2f} %: {learned}"
