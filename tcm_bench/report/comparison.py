"""The comparison table: does TCM make one threshold fit all classes, and what does it do to retrieval?"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from tcm_bench.files import write_atomic
from tcm_bench.report.fold import COMPARABLE, Comparisons, fold, row_names, tcm_kinds
from tcm_bench.report.latex import latex
from tcm_bench.report.scores import Score, arrow, score
from tcm_bench.results.ledger import Result, Run

DASH = "–"
ENOUGH_SEEDS = 3  # for a claim about OPIS
FEW_SEEDS = (
    "between training seeds OPIS was seen to vary by about 25 % (coefficient of variation), so single differences are "
    "observations"
)
MEAN = "mean: of the values and of the changes of the rows that have both arms"
WIDE = 118  # columns a terminal needs for one line per comparison
EXTRA = 20  # and for each further score
BENCHMARKS = {"cub": "CUB-200-2011", "cars": "Cars-196", "sop": "SOP", "inat": "iNaturalist-2018"}
ARTICLE = (  # arXiv 2307.04047, what its authors say in public; see the README for where
    "OPIS fell in 16 of 16, by up to 77.3 %",
    "R@1 rose in 14 of 16, between -0.2 and +3.6 points",
)


BEFORE = score("recall_at_1")  # of the features that training starts from


class Cell(NamedTuple):
    """Both values, the change from one to the other, and whether it is for the better."""

    values: str
    change: str = ""
    better: bool | None = None

    def __str__(self) -> str:
        """Both parts on one line."""
        return f"{self.values} {self.change}".rstrip()


def write_comparison(results: Iterable[Result], folder: Path, name: str, planned: Sequence[Run] = ()) -> list[Path]:
    """Write the comparisons among `results` as `<name>.csv` (fractions), `<name>.md` (for people) and `<name>.tex`.

    Args:
        results: Rows of runs, whatever their status.
        folder: Where to write; made if need be.
        name: Stem of the files.
        planned: All runs that should exist, see `tcm_bench.report.fold.fold`.

    Returns:
        The paths, csv first.
    """
    found = fold(results, planned)
    paths = [folder / f"{name}.{suffix}" for suffix in ("csv", "md", "tex")]
    write_atomic(paths[0], found.rows.to_csv(index=False, lineterminator="\n"))
    write_atomic(paths[1], markdown(found, name))
    write_atomic(paths[2], latex(found, name))
    return paths


def comparison_table(results: Iterable[Result], planned: Sequence[Run] = (), *, width: int = 120) -> Table:
    """The table on unseen classes for a terminal of `width` columns, at least 80; see `write_comparison`."""
    found = fold(results, planned)
    claims = [ours for ours, _ in _claims(found)]
    caption = "\n".join([*claims, *[MEAN] * (len(found.rows) > 1), *_by_hand(found), *cautions(found), *found.notes])
    shown = _shown(found)
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.caption, table.caption_justify, table.caption_style = Text(caption), "left", "none"
    narrow = width < WIDE + EXTRA * (len(shown) - 3)
    for title in ("data", "backbone\nloss") if narrow else ("data", "backbone", "loss"):
        table.add_column(title, overflow="fold")
    for title in ("seeds", "before", *(f"{_title(metric)}\nbase → TCM" for metric in shown)):
        table.add_column(title, justify="right")
    for cells in _body(found, shown):
        table.add_row(*_terminal_cells(cells, narrow))
    if len(found.rows):
        table.add_section()
        table.add_row(*_terminal_cells(_mean_row(found, shown), narrow), style="bold")
    return table


def markdown(found: Comparisons, name: str) -> str:
    """The whole report as GitHub-flavoured Markdown."""
    rows = found.rows
    parts = [
        f"# TCM against its baseline: `{name}`",
        _preamble(rows),
        *(f"**Warning:** {text}" for text in cautions(found)),
        "## Claims",
        pipe_table(
            (f"here, on {found.tested}", "the article, on its 16 comparisons"),
            _claims(found),
        ),
        f"## {found.tested.capitalize()}",
        _measured_table(found),
        _legend(rows),
        "## Seen classes",
        "The same metrics on training classes: does the loss do to its own pairs what it is made for?",
        _measured_table(found, "_seen"),
    ]
    if found.details:
        parts += [
            "## What the changes are made of",
            "OPIS less noise: without the noise of few images a class, of which the noise floor is the share in OPIS. "
            "OPIS to a FAR: over the stricter ranges, each a decade. Spread of thresholds: width of the interval that "
            "holds the middle 80 % of the classes' own thresholds, x 1e-3.",
            _measured_table(found, details=True),
        ]
    if _has_intervals(rows):
        parts += [
            "## Paired differences",
            "Mean over the seeds of TCM minus base with its 95 % t interval; R@1 in points, OPIS x 1e-3.",
            _interval_table(found),
        ]
    parts += ["## Settings", _settings(found)]
    if found.notes:
        parts += [
            "## Runs that are not in the tables, or not in full",
            "\n".join(f"- {n}" for n in found.notes),
        ]
    return "\n\n".join(parts) + "\n"


def _preamble(rows: pd.DataFrame) -> str:
    named = list(dict.fromkeys(rows["data"]))
    foreign = [name for name in named if name not in BENCHMARKS]
    lines = [
        "Each row is one comparison: the same data, backbone, base loss and seeds, trained without TCM "
        "(base) and with it. R@1 is leave-one-out retrieval. OPIS is how far the classes' utility curves "
        "spread around their mean over the calibration range, x%-OPIS how far the worst x % of the classes "
        "lie from the rest: lower is better."
    ]
    if foreign:
        verb = "is none" if len(foreign) == 1 else "are none"
        lines.append(
            f"**Not the article's tables:** {_listed(foreign)} {verb} of its benchmarks "
            f"({_listed(list(BENCHMARKS.values()))}). A miniature asks whether the effect shows, not how "
            "large it is there."
        )
    if has_few_seeds(rows):
        lines.append(f"**Fewer than {ENOUGH_SEEDS} seeds:** {FEW_SEEDS}; add `'seed=range(0,{ENOUGH_SEEDS})'`.")
    return "\n\n".join(lines)


def has_few_seeds(rows: pd.DataFrame) -> bool:
    """Whether a comparison has too few seeds for a claim about OPIS."""
    return bool((rows["seeds"] < ENOUGH_SEEDS).any())


def _measured_table(found: Comparisons, suffix: str = "", *, details: bool = False) -> str:
    before = not (suffix or details)
    shown = [score(name) for name in found.details] if details else _shown(found)
    titles = ["data", "backbone", "loss", "seeds", *["R@1 % before"] * before]
    titles += [f"{_title(metric)} base → TCM" for metric in shown]
    body = [[str(cell) for cell in cells] for cells in _body(found, shown, suffix, before=before)]
    if len(found.rows):
        mean = _mean_row(found, shown, suffix, before=before)
        body.append([f"**{cell}**" if str(cell) else "" for cell in mean])
    return pipe_table(titles, body, left=3)


def _shown(found: Comparisons) -> list[Score]:
    return [score(name) for name in found.scores]


def _title(metric: Score) -> str:
    return f"{metric.title} {metric.unit}"


def _body(
    found: Comparisons, shown: Sequence[Score], suffix: str = "", *, before: bool = True
) -> list[list[str | Cell]]:
    body = []
    for row, names in zip(found.rows.to_dict("records"), row_names(found.rows), strict=True):
        cells: list[str | Cell] = [*names]
        if before:
            cells.append(_number(row["recall_at_1_before"], BEFORE))
        body.append(cells + [cell(row, metric, suffix) for metric in shown])
    return body


def _mean_row(found: Comparisons, shown: Sequence[Score], suffix: str = "", *, before: bool = True) -> list[str | Cell]:
    """Means over the rows that have both arms: of the values, and of the rows' changes."""
    cells: list[str | Cell] = ["mean", "", "", ""]
    if before:
        cells.append(_number(found.rows["recall_at_1_before"].mean(), BEFORE))
    return cells + [_mean_cell(found.rows, metric, suffix) for metric in shown]


def _mean_cell(rows: pd.DataFrame, metric: Score, suffix: str) -> Cell:
    columns = [f"{metric.name}{suffix}_{arm}" for arm in ("base", "tcm")]
    base, tcm = rows[columns].dropna().mean()
    if math.isnan(base):
        return Cell(DASH)
    change = _changes(rows, metric, suffix).mean()
    shown = "" if math.isnan(change) else _arrow(change, f"{change:+.1f}{'%' * metric.relative}")
    return Cell(f"{_number(base, metric)} → {_number(tcm, metric)}", shown, metric.is_better(change))


def _changes(rows: pd.DataFrame, metric: Score, suffix: str = "") -> pd.Series:
    """By how much each row that has both arms changes, in percent of its base or in the unit shown."""
    base, tcm = rows[f"{metric.name}{suffix}_base"], rows[f"{metric.name}{suffix}_tcm"]
    return (100 * (tcm - base) / base[base != 0] if metric.relative else metric.scale * (tcm - base)).dropna()


def cell(row: Mapping[str, Any], metric: Score, suffix: str = "") -> Cell:
    """A score of both arms of a comparison; an asterisk if the interval of the paired difference leaves out 0."""
    column = f"{metric.name}{suffix}"
    base, tcm = row[f"{column}_base"], row[f"{column}_tcm"]
    if math.isnan(base) and math.isnan(tcm):
        return Cell(DASH)
    values = f"{_number(base, metric)} → {_number(tcm, metric)}"
    if math.isnan(base) or math.isnan(tcm):
        return Cell(values)
    low, high = row.get(f"{column}_change_low", math.nan), row.get(f"{column}_change_high", math.nan)
    sure = "*" if low > 0 or high < 0 else ""
    return Cell(values, f"{_change(base, tcm, metric)}{sure}", metric.is_better(tcm - base))


def _change(base: float, tcm: float, metric: Score) -> str:
    if metric.relative:
        return _arrow(tcm - base, f"{100 * (tcm / base - 1):+.1f}%" if base else "")
    return _arrow(tcm - base, f"{metric.scale * (tcm - base):+.1f}")


def _arrow(change: float, text: str) -> str:
    return f"{arrow(change)} {text}".rstrip()


def _number(value: float, metric: Score) -> str:
    return DASH if math.isnan(value) else f"{metric.scale * value:.1f}"


def _claims(found: Comparisons) -> list[tuple[str, str]]:
    """What the rows say of OPIS and R@1, each beside what the article says."""
    recall, opis, *worst = _shown(found)
    return [
        (counted(found.rows, opis), ARTICLE[0]),
        *((counted(found.rows, metric), DASH) for metric in worst),
        (counted(found.rows, recall), ARTICLE[1]),
    ]


def counted(rows: pd.DataFrame, metric: Score) -> str:
    """In how many comparisons a score changes for the better, by how much, and how often the intervals leave out 0.

    Of a single comparison, by how much it changes, and whether its interval leaves out 0.
    """
    change = (rows[f"{metric.name}_tcm"] - rows[f"{metric.name}_base"]).dropna()
    improved = (change > 0) if metric.higher_is_better else (change < 0)
    shown = _changes(rows, metric)
    unit = "%" if metric.relative else "points"
    if not len(change):
        return f"{metric.title} is known of both arms in none of {len(rows)}"
    up, down = rows[f"{metric.name}_change_low"] > 0, rows[f"{metric.name}_change_high"] < 0
    if len(rows) == len(shown) == 1:
        text = f"{metric.title} changed by {shown.iloc[0]:+.1f} {unit}"
        leaves_out_0 = "leaves out" if (up | down).any() else "holds"
        return text + (f"; the 95 % interval {leaves_out_0} 0" if _has_intervals(rows) else "")
    text = f"{metric.title} {'rose' if metric.higher_is_better else 'fell'} in {improved.sum()} of {len(rows)}"
    if len(change) < len(rows):
        text += f" ({len(rows) - len(change)} without a value)"
    if len(shown):
        text += f", between {shown.min():+.1f} and {shown.max():+.1f} {unit}, mean {shown.mean():+.1f}"
    if _has_intervals(rows):
        better, worse = (up, down) if metric.higher_is_better else (down, up)
        text += f"; in {better.sum()} of them, and in {worse.sum()} of the others, the 95 % interval leaves out 0"
    return text


def _legend(rows: pd.DataFrame) -> str:
    text = (
        "↑ ↓ the change that TCM makes, R@1 in points, OPIS in percent of the base; arrows are taken before "
        f"rounding. {MEAN}. {DASH} no value."
    )
    return text + (" * the 95 % interval of the paired difference leaves out 0." if _has_intervals(rows) else "")


def _has_intervals(rows: pd.DataFrame) -> bool:
    return bool((rows["seeds"] > 1).any())


def _interval_table(found: Comparisons) -> str:
    body = []
    for row, names in zip(found.rows.to_dict("records"), row_names(found.rows), strict=True):
        cells = [*names]
        for metric in _shown(found):
            change, low, high = (
                metric.scale * value
                for value in (
                    row[f"{metric.name}_tcm"] - row[f"{metric.name}_base"],
                    row[f"{metric.name}_change_low"],
                    row[f"{metric.name}_change_high"],
                )
            )
            cells.append(DASH if math.isnan(low) else f"{change:+.2f} [{low:+.2f}, {high:+.2f}]")
        body.append(cells)
    return pipe_table(["data", "backbone", "loss", "seeds", *(metric.title for metric in _shown(found))], body, left=3)


def _settings(found: Comparisons) -> str:
    lines = [f"- {_setting(setting)}" for setting in found.settings] or ["- no finished run, so none is known"]
    lines += [f"- {text}" for text in _by_hand(found)]
    hidden = found.rows[found.rows["tcm"] != tcm_kinds(found.rows)] if len(found.rows) else found.rows
    lines += [
        f"- TCM on {data} {backbone}: {tcm}"
        for data, backbone, tcm in hidden[["data", "backbone", "tcm"]].drop_duplicates().itertuples(index=False)
    ]
    if found.commits:
        lines.append(
            f"- code: {', '.join(found.commits)}" + (" (+ local changes)" if "+" in str(found.commits) else "")
        )
    return "\n".join(lines)


def _setting(setting: Mapping[str, Any]) -> str:
    text = ", ".join(f"{name} {value}" for name, value in setting.items())
    return f"OPIS: {text}; the calibration range is found anew for each run"


def _by_hand(found: Comparisons) -> list[str]:
    return ["all with " + ", ".join(f"{key}={value}" for key, value in found.by_hand.items())] if found.by_hand else []


def cautions(found: Comparisons) -> list[str]:
    """Why rows of one table cannot be compared with each other, if they cannot."""
    differ = [name for name in COMPARABLE if len({str(s.get(name)) for s in found.settings}) > 1]
    if not differ:
        return []
    return [f"the runs measured OPIS with different settings ({_listed(differ)}) and cannot be compared"]


def pipe_table(titles: Sequence[str], body: Sequence[Sequence[str]], left: int = 99) -> str:
    """GitHub-flavoured Markdown; the first `left` columns are aligned to the left, the others to the right."""
    rule = ["---" if i < left else "---:" for i in range(len(titles))]
    kept = ([str(cell).replace("|", r"\|") for cell in cells] for cells in (titles, rule, *body))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in kept)


def _terminal_cells(cells: Sequence[str | Cell], narrow: bool) -> list[Text]:
    """Improvements green, the contrary red; in a narrow terminal a row takes two lines."""
    colors = {True: "green", False: "red", None: ""}
    between = "\n" if narrow else " "
    shown = []
    for cell in cells:
        text = Text(cell.values if isinstance(cell, Cell) else cell)
        if isinstance(cell, Cell) and cell.change:
            text.append(between).append(cell.change, colors[cell.better])
        shown.append(text)
    if narrow:
        shown[1:3] = [Text("\n").join(shown[1:3])]
    return shown


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
