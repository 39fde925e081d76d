"""Settings chosen on training classes that were held out: what was tried, what was chosen, what came out on the test.

Both arms by one rule: the least OPIS on held-out classes among settings whose R@1 there is at most a tolerance below
another's. For the baseline that is the best one's; for TCM, among the settings that share the chosen baseline's other
ones, the chosen baseline's, and OPIS must be below its. Settings of fewer seeds than the others are shown, not chosen.
The test classes have no part in it; they are shown for the two that were chosen, and for nothing else.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tcm_bench.files import write_atomic
from tcm_bench.report.scores import score
from tcm_bench.results.labels import is_base, labels
from tcm_bench.results.ledger import Result

TOLERANCE = 0.002  # of R@1, a fraction
RECALL, OPIS = "recall_at_1", "opis"


class Tried(NamedTuple):
    """One setting of a comparison; scores are means over its seeds, NaN where a seed has none.

    Attributes:
        of: Data, backbone and loss.
        setting: What else differs between the runs of these names, TCM's left out.
        tcm: Of the TCM setting; empty for a baseline.
        seeds: How many.
        recall_val: R@1 on held-out classes.
        opis_val: OPIS there.
        cosine_val: Where the calibration range begins there, at a FAR of 1 % if nothing else is set: a first value for
            TCM's negative margin.
        recall: R@1 on the test classes.
        opis: OPIS there.
    """

    of: tuple[str, str, str]
    setting: str
    tcm: str
    seeds: int
    recall_val: float
    opis_val: float
    cosine_val: float
    recall: float
    opis: float


class Choice(NamedTuple):
    """What was chosen for a comparison.

    Attributes:
        tried: All settings, in the order in which they were first met.
        base: The baseline chosen; None if none has held-out classes.
        tcm: The TCM setting chosen; None if none keeps R@1 and lowers OPIS.
    """

    tried: Sequence[Tried]
    base: Tried | None
    tcm: Tried | None


def choices(results: Iterable[Result], tolerance: float = TOLERANCE) -> list[Choice]:
    """The choice for each data set, backbone and loss.

    Args:
        results: Rows of runs; those that have not finished are left out.
        tolerance: By how much R@1 on held-out classes may lie below another's, see above; a fraction.

    Raises:
        ValueError: If no finished run has held-out classes.
    """
    finished = [run for run in results if run.status == "finished"]
    if not any(run.metrics.get(f"{OPIS}_val") is not None for run in finished):
        raise ValueError(
            "no finished run of it has held-out classes to choose by: train with data.loader.validation_classes=N"
        )
    groups: dict[tuple[str, ...], dict[tuple[str, str], list[Result]]] = defaultdict(lambda: defaultdict(list))
    for run, label in zip(finished, labels(finished), strict=True):
        groups[label[:3]][label.setting, "" if is_base(run) else label.tcm].append(run)
    return [_chosen([_tried(of, key, runs) for key, runs in kinds.items()], tolerance) for of, kinds in groups.items()]


def _tried(of: tuple[str, ...], key: tuple[str, str], runs: Sequence[Result]) -> Tried:
    names = (f"{RECALL}_val", f"{OPIS}_val", RECALL, OPIS)
    recall_val, opis_val, *tested = [_mean([run.metrics.get(name) for run in runs]) for name in names]
    cosine_val = _mean([run.threshold.get("strictest_cosine_val") for run in runs])
    data, backbone, loss = of
    seeds = len({run.choices.get("seed") for run in runs})
    return Tried((data, backbone, loss), *key, seeds, recall_val, opis_val, cosine_val, *tested)


def _chosen(tried: list[Tried], tolerance: float) -> Choice:
    bases = [one for one in tried if not one.tcm and not math.isnan(one.recall_val + one.opis_val)]
    if not bases:
        return Choice(tried, None, None)
    # A mean over fewer seeds than the others' may be lucky.
    most = max(one.seeds for one in bases)
    bases = [one for one in bases if one.seeds == most]
    best = max(one.recall_val for one in bases)
    base = min((one for one in bases if one.recall_val >= best - tolerance), key=lambda one: one.opis_val)
    kept = [
        one
        for one in tried
        if one.tcm
        and one.seeds >= base.seeds
        and one.setting == base.setting
        and one.recall_val >= base.recall_val - tolerance
        and one.opis_val < base.opis_val
    ]
    return Choice(tried, base, min(kept, key=lambda one: one.opis_val, default=None))


def write_choices(results: Iterable[Result], folder: Path, name: str, tolerance: float = TOLERANCE) -> list[Path]:
    """Write what was tried and chosen as `<name>-choice.csv` (fractions) and `<name>-choice.md` (for people)."""
    found = choices(results, tolerance)
    paths = [folder / f"{name}-choice.csv", folder / f"{name}-choice.md"]
    rows = [_row(one, is_chosen=one in (choice.base, choice.tcm)) for choice in found for one in choice.tried]
    write_atomic(paths[0], pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    write_atomic(paths[1], markdown(found, name, tolerance))
    return paths


def _row(one: Tried, *, is_chosen: bool) -> dict[str, Any]:
    untold = {} if is_chosen else {"recall": math.nan, "opis": math.nan}
    return {**one._asdict(), "of": " ".join(one.of), **untold, "chosen": is_chosen}


def markdown(found: Sequence[Choice], name: str, tolerance: float = TOLERANCE) -> str:
    """The tables for people, a section for each comparison."""
    parts = [
        f"# Settings chosen on held-out classes: `{name}`",
        "Scores on training classes that were held out, means over the seeds; **bold**: chosen, for the least OPIS. "
        f"R@1 is at most {100 * tolerance:g} points below: the baseline's below the best baseline's, TCM's below the "
        "chosen baseline's. The test classes had no part in the choice and are shown for what was chosen only.",
    ]
    for choice in found:
        parts += [f"## {' '.join(choice.tried[0].of)}", _table(choice)]
        if choice.base is None:
            parts.append("No baseline with held-out classes has finished.")
        elif not any(one.tcm for one in choice.tried):
            parts.append("No TCM has been tried yet.")
        elif choice.tcm is None:
            parts.append("No TCM setting keeps R@1 and lowers OPIS.")
    return "\n\n".join(parts) + "\n"


def _table(choice: Choice) -> str:
    titles = [
        "setting",
        "TCM",
        "seeds",
        "held-out R@1 %",
        "held-out OPIS e-3",
        "cosine at lowest FAR",
        "test R@1 %",
        "test OPIS e-3",
    ]
    lines = [f"| {' | '.join(titles)} |", f"| --- | --- | {' | '.join(['---:'] * (len(titles) - 2))} |"]
    for one in sorted(choice.tried, key=lambda one: (one.setting, bool(one.tcm))):
        is_chosen = one in (choice.base, choice.tcm)
        held_out = [_number(one.recall_val, RECALL), _number(one.opis_val, OPIS)]
        if choice.base and one != choice.base and one.setting == choice.base.setting and choice.base.opis_val:
            held_out[1] += f" ({100 * (one.opis_val / choice.base.opis_val - 1):+.0f} %)"
        held_out.append("–" if math.isnan(one.cosine_val) else f"{one.cosine_val:.2f}")
        tested = [_number(one.recall, RECALL), _number(one.opis, OPIS)] if is_chosen else ["", ""]
        cells = [one.setting or "–", one.tcm or "none", str(one.seeds), *held_out, *tested]
        lines.append(f"| {' | '.join(f'**{cell}**' if is_chosen and cell else cell for cell in cells)} |")
    return "\n".join(lines)


def _number(value: float, name: str) -> str:
    return "–" if math.isnan(value) else f"{score(name).scale * value:.1f}"


def _mean(values: Sequence[float | None]) -> float:
    return math.nan if None in values else math.fsum(value or 0.0 for value in values) / len(values)
