"""The short table of a README: the rows of a comparison, and a sentence for each score."""

import pandas as pd

from tcm_bench.report.comparison import cell, counted, pipe_table
from tcm_bench.report.scores import score

SHOWN = ("recall_at_1", "opis", "opis_corrected", "opis_10pct")


def headline(rows: pd.DataFrame) -> str:
    """Markdown of a comparison's csv, as `tcm_bench.report.comparison.write_comparison` writes it.

    Args:
        rows: One a comparison; fractions.

    Returns:
        A table, and beneath it how many comparisons changed for the better, by how much, and how surely.
    """
    shown = [score(name) for name in SHOWN if f"{name}_base" in rows]
    titles = ["data", "backbone", "loss", *(f"{metric.title} {metric.unit}" for metric in shown)]
    kinds = rows["tcm"].str.partition(" ")[0]  # `paper`, `chosen`: without the values, which the rows have
    losses = rows["loss"] + (" (" + kinds + ")" if kinds.nunique() > 1 else "")
    body = [
        [row["data"], row["backbone"], loss, *(str(cell(row, metric)) for metric in shown)]
        for row, loss in zip(rows.to_dict("records"), losses, strict=True)
    ]
    return "\n".join([pipe_table(titles, body, left=3), "", *(f"- {counted(rows, metric)}." for metric in shown)])
