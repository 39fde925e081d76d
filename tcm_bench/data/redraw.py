"""Tables put together anew: some of the items, or another draw of which classes train and which test."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tcm_bench.data.decode import Picture
from tcm_bench.data.table import FeatureTable, ImageTable, Splits, Table


@dataclass(frozen=True, eq=False)
class SubsetImages(ImageTable):
    """Some of the images of other tables.

    Attributes:
        tables: Laid end to end.
        rows: Which of their images, int64 ``(items,)``.
    """

    tables: Sequence[ImageTable]
    rows: np.ndarray

    def picture(self, index: int) -> Picture:
        """The item's image, as its table has it."""
        row = int(self.rows[index])
        for table in self.tables:
            if row < len(table):
                return table.picture(row)
            row -= len(table)
        raise IndexError(f"row {self.rows[index]} is beyond the last table")


def subset(tables: Sequence[Table], classes: np.ndarray, rows: np.ndarray) -> Table:
    """Some items of tables of one kind that share no class, as a table.

    Args:
        tables: Laid end to end, their labels too: those of a table follow those of the table before it.
        classes: Labels to keep, increasing; a class's place among them is its new label.
        rows: int64 ``(items,)``, all of these classes.
    """
    labels, names = _end_to_end(tables)
    labels, names = np.searchsorted(classes, labels[rows]), [names[label] for label in classes]
    query, gallery = (_mask(tables, role, rows) for role in ("query", "gallery"))
    if all(isinstance(table, FeatureTable) for table in tables):
        features = _taken([table.features for table in tables if isinstance(table, FeatureTable)], rows)
        return FeatureTable(labels, names, features, query=query, gallery=gallery)
    images = [table for table in tables if isinstance(table, ImageTable)]
    return SubsetImages(labels, names, images, rows, query=query, gallery=gallery)


def redrawn(splits: Splits, seed: int) -> Splits:
    """Another split of the same classes: as many to train and as many to test, drawn from all of them.

    What changes from one draw to the next is what the choice of classes does to a score. A benchmark has one split, and
    a number on another is none of its numbers.

    Args:
        splits: Both tables, of one kind.
        seed: Of the draw.

    Raises:
        ValueError: If the set is closed: there is nothing to draw.
    """
    if splits.closed_set:
        raise ValueError(
            "data.split_seed draws which classes train and which test, and a closed set has all on both sides: leave "
            "it out"
        )
    tables = (splits.train, splits.test)
    labels, names = _end_to_end(tables)
    drawn = np.random.default_rng(seed).permutation(len(names))
    sides = [np.sort(classes) for classes in np.split(drawn, [splits.train.num_classes])]
    train, test = (subset(tables, classes, np.flatnonzero(np.isin(labels, classes))) for classes in sides)
    return Splits(train, test, hashlib.sha256(f"{splits.fingerprint} {seed}".encode()).hexdigest())


def _end_to_end(tables: Sequence[Table]) -> tuple[np.ndarray, list[str]]:
    """Labels of all items, and the names of all classes."""
    firsts = np.cumsum([0, *(table.num_classes for table in tables)])
    labels = [table.labels + first for table, first in zip(tables, firsts, strict=False)]
    return np.concatenate(labels), [name for table in tables for name in table.class_names]


def _taken(parts: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Rows of arrays laid end to end; no other row is read, for they may be files larger than memory."""
    taken = np.empty((len(rows), *parts[0].shape[1:]), dtype=parts[0].dtype)
    first = 0
    for part in parts:
        inside = (rows >= first) & (rows < first + len(part))
        taken[inside] = part[rows[inside] - first]
        first += len(part)
    return taken


def _mask(tables: Sequence[Table], name: str, rows: np.ndarray) -> np.ndarray | None:
    """A role of these items; None if no table has it."""
    masks = [table.roles()[name] for table in tables]
    if all(mask is None for mask in masks):
        return None
    everything = [np.ones(len(table), dtype=bool) for table in tables]
    return np.concatenate([one if mask is None else mask for mask, one in zip(masks, everything, strict=True)])[rows]
