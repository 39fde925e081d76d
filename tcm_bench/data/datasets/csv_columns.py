"""Text that people write by hand: lists of labels and of images."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv


def utf8_text(file: Path) -> str:
    """A text file's content, without a byte order mark.

    Raises:
        ValueError: If it is not UTF-8 (UTF-16, as some spreadsheets save it, or no text at all).
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 (byte {error.start}): save it as UTF-8") from error
    if "\0" in text:
        raise ValueError(f"{file} is no text in UTF-8 (byte {text.encode().index(0)} is 0): save it as UTF-8")
    return text


def csv_table(file: Path, as_text: Sequence[str]) -> pa.Table:
    """A CSV file (UTF-8, with a header), the columns `as_text` as they are written; a missing cell is "".

    Raises:
        ValueError: If it is not UTF-8.
        pyarrow.ArrowInvalid: If it is no table.
    """
    options = csv.ConvertOptions(column_types=dict.fromkeys(as_text, pa.string()), strings_can_be_null=False)
    return csv.read_csv(io.BytesIO(utf8_text(file).encode()), convert_options=options)


def csv_columns(file: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, list[str]]:
    """Columns of a CSV file (UTF-8, with a header) as text; a missing cell is "".

    Args:
        file: Read as a whole.
        needed: Columns that it must have.
        optional: Columns that it may have; those that it lacks are not in the answer.

    Raises:
        ValueError: If it is no such file, or a column is missing or there twice.
    """
    names = [*needed, *optional]
    try:
        table = csv_table(file, names)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file} is not a CSV file with a column {needed[0]!r} ({_first_line(error)})") from error
    for name in names:
        number = table.column_names.count(name)
        if number > 1 or (not number and name in needed):
            known = ", ".join(table.column_names)
            raise ValueError(f"{file} is not a CSV file with a column {name!r} (it has {number}; columns: {known})")
    return {name: table[name].to_pylist() for name in names if name in table.column_names}


def labels_of(words: Sequence[str]) -> np.ndarray:
    """Labels as they are meant: whole numbers if all of them are, else strings.

    Example:
        >>> labels_of(["10", "9"]).tolist(), labels_of(["10", "009"]).tolist()
        ([10, 9], ['10', '009'])
    """
    found = np.array(words, dtype=np.str_)
    try:
        numbers = found.astype(np.int64)
    except (ValueError, OverflowError):
        return found
    return numbers if (numbers.astype(np.str_) == found).all() else found  # "007" is a name


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
