"""Anyone's own images: a table that says where each lies, what it shows, and on which side of the split it is."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from tcm_bench.data.datasets.csv_columns import csv_table
from tcm_bench.data.table import ImageFiles, Paths, Splits
from tcm_bench.files import file_sha256

TRAIN, TEST = "train", "test"
NEEDED = ("path", "label", "split")
MASKS = ("is_query", "is_gallery")
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def table_splits(file: str | Path, root: str | Path | None = None, sha256: str | None = None) -> Splits:
    """Images listed in a table, one row each.

    Columns: ``path``; ``label``, a text or a whole number; ``split``, ``train`` or ``test``; and, if test images are
    to be searched with or searched among only in part, ``is_query`` and ``is_gallery`` (both true where the column
    is missing; not read for training images). Other columns are passed over.

    Args:
        file: ``.csv`` (UTF-8, with a header) or ``.parquet``.
        root: Folder that relative paths start from; None: the file's own.
        sha256: Hash of the file; any file is taken if None.

    Returns:
        Tables of images in the file's order; the fingerprint is the file's hash and does not cover the images.

    Raises:
        ValueError: If the file is missing, unreadable or altered, a column is missing, a cell is empty or holds what
            it may not, a class is on both sides, a path occurs twice, a side has fewer than two classes, or a query
            finds no image of its class in the gallery.
    """
    file = Path(file)
    if not file.is_file():
        raise ValueError(f"there is no file {file}: set data.file to a .csv or .parquet file")
    found = file_sha256(file)
    if sha256 is not None and found != sha256:
        raise ValueError(f"{file} has sha256 {found} where {sha256} is expected")
    rows = _rows(file)
    for column in NEEDED:
        _refuse(file, rows, rows[column].isin(("", "nan", "NaN")), column, "it must not be empty")
    _refuse(file, rows, ~rows["split"].isin((TRAIN, TEST)), "split", "it must be train or test")
    _refuse(file, rows, rows["path"].duplicated(), "path", "an earlier row has it too")
    in_test = rows["split"] == TEST
    in_train = rows["label"].isin(rows["label"][~in_test])
    _refuse(file, rows, in_test & in_train, "label", "training images show it too, and a class must be on one side")
    start = file.parent if root is None else Path(root)
    for side, classes in rows.groupby("split")["label"].nunique().reindex((TRAIN, TEST), fill_value=0).items():
        if classes < 2:
            raise ValueError(f"{file} has {classes} {side} classes where at least 2 are expected")
    train = _table(start, rows[~in_test], {})
    test = _table(start, rows[in_test], _masks(file, rows[in_test]))
    return Splits(train=train, test=test, fingerprint=found)


def _rows(file: Path) -> pd.DataFrame:
    """The known columns as text, "" for what is missing; the index counts rows from 1."""
    try:
        table = parquet.read_table(file) if file.suffix == ".parquet" else csv_table(file, (*NEEDED, *MASKS))
        if missing := [column for column in NEEDED if column not in table.column_names]:
            raise ValueError(f"{file} needs a column {missing[0]!r}, it has {', '.join(table.column_names) or 'none'}")
        known = {column: table[column] for column in (*NEEDED, *MASKS) if column in table.column_names}
        texts = {column: values.cast(pa.string()).fill_null("") for column, values in known.items()}
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = re.sub(r"(got \d+): .*", r"\1", str(error).partition("\n")[0])  # not the row itself: it may be no text
        raise ValueError(f"{file} is no table in .csv (as UTF-8) or .parquet: {reason}") from error
    rows = pa.table(texts).to_pandas().apply(lambda column: column.str.strip())
    rows.index += 1
    if pa.types.is_floating(known["label"].type):  # what pandas makes of whole numbers with a gap
        _refuse(file, rows, ~rows["label"].str.fullmatch("-?[0-9]*"), "label", "it must be a text or a whole number")
    return rows


def _refuse(file: Path, rows: pd.DataFrame, wrong: pd.Series, column: str, why: str) -> None:
    """Name the first wrong cell."""
    if wrong.any():
        row = wrong.idxmax()
        raise ValueError(f"row {row} of {file} has {rows.at[row, column]!r} as {column}: {why}")


def _table(root: Path, rows: pd.DataFrame, masks: Mapping[str, np.ndarray]) -> ImageFiles:
    """The rows of one side."""
    names, labels = np.unique(rows["label"].to_numpy(dtype=str), return_inverse=True)
    return ImageFiles(labels, names.tolist(), Paths(root, rows["path"].tolist()), **masks)


def _masks(file: Path, rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which test images are searched with, and which are searched among; empty if the table does not say."""
    given = [column for column in MASKS if column in rows]
    for column in given:
        _refuse(file, rows, ~rows[column].str.lower().isin(TRUTH), column, "it must be true or false for a test image")
    if not given:
        return {}
    masks = {column: rows[column].str.lower().map(TRUTH) if column in rows else rows["label"] != "" for column in MASKS}
    query, gallery = (masks[column].astype(bool) for column in MASKS)
    _refuse(file, rows, ~(query | gallery), "is_query", "and is_gallery is false too, so the image serves for nothing")
    mates = gallery.groupby(rows["label"]).transform("sum") - gallery  # an image does not find itself
    _refuse(file, rows, query & (mates == 0), "label", "no other image of the gallery shows what this query does")
    if not query.any():
        raise ValueError(f"{file} has no query: is_query is false in every test row")
    return {"query": query.to_numpy(), "gallery": gallery.to_numpy()}
