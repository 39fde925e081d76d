"""What embeddings are worth: `tcm-bench evaluate` of any file or run, and `compare` of two evaluations."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tcm_bench.cli.shared import AsJson, OutputDir, console
from tcm_bench.evaluation.settings import Axis, Ranking, Settings
from tcm_bench.report.scores import details, score
from tcm_bench.report.source import KINDS, Source, source

if TYPE_CHECKING:
    import torch


def _setting(name: str, help: str, **options: Any) -> Any:
    """An option for one of the `Settings`."""
    default = getattr(Settings, name)
    shown = ",".join(map(str, default)) or "none" if isinstance(default, tuple) else default
    return typer.Option(help=help, show_default=f"the run's own, else {shown}", **options)


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help=f"{KINDS[0].upper()}{KINDS[1:]}. A file holds `embeddings` (or `features`), `labels` and, if they "
            "differ, `query` and `gallery`; `.npy` the embeddings alone. A run is measured by its own settings.",
        ),
    ],
    output_dir: OutputDir,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Labels of their own file, in place of the source's: `.npy`, `.txt`, or `.csv` with a column `label`."
        ),
    ] = None,
    axis: Annotated[Axis | None, _setting("axis", "Threshold axis.")] = None,
    far_bounds: Annotated[
        tuple[float, float] | None,
        _setting("far_bounds", "False accept rates at the ends of the calibration range.", metavar="LOW HIGH"),
    ] = None,
    k: Annotated[str | None, _setting("ks", "Numbers of neighbors inspected for R@k.")] = None,
    num_thresholds: Annotated[int | None, _setting("num_thresholds", "Points of the threshold grid.")] = None,
    eps: Annotated[float | None, _setting("eps", "Share of the classes called worst.")] = None,
    c: Annotated[float | None, _setting("c", "Weight of sensitivity against specificity.")] = None,
    ranking: Annotated[Ranking | None, _setting("ranking", "How the worst classes are chosen.")] = None,
    tar_at_far: Annotated[
        str | None, _setting("far_levels", "False accept rates at which the true accept rate is wanted, as 0.001,0.01.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="How many compute.", show_default="one a core")] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to compute.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json, classes.parquet and curves.parquet.", show_default="not stored"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """R@k, OPIS and 10%-OPIS of embeddings, exactly and over all pairs, with their errors over classes."""
    meant = source(what, output_dir)
    given = {"axis": axis, "far_bounds": far_bounds, "ks": k, "num_thresholds": num_thresholds, "eps": eps, "c": c}
    asked = _asked({**given, "ranking": ranking, "far_levels": tar_at_far})
    if meant.kind == "evaluation" and (asked or labels or out):
        raise ValueError(
            f"{meant.path} holds an evaluation, which can be shown as it is; to measure anew give what it was made from"
        )
    if out:
        out.mkdir(parents=True, exist_ok=True)  # better refused now than after minutes
    place, numbers, origin = _measured(meant, asked, labels, out, threads, device)
    _tell(place, numbers, origin, asked, out, as_json)


def compare(
    base: Annotated[str, typer.Argument(help=f"{KINDS[0].upper()}{KINDS[1:]}.")],
    other: Annotated[str, typer.Argument(help="Another one, measured on the same test set.")],
    output_dir: OutputDir,
    as_json: AsJson = False,
) -> None:
    """What two networks differ by on the same test set: OTHER - BASE of every score, with its error over classes.

    A file of vectors is measured as the other side was.
    """
    sides = source(base, output_dir), source(other, output_dir)
    from tcm_bench.evaluation.files import difference, plain
    from tcm_bench.report.measured import record, shared_settings

    settings = shared_settings(sides)
    first, second = (record(side, settings) for side in sides)
    found = difference(first, second)
    rows = {
        name: {
            "base": first.numbers[name],
            "other": second.numbers[name],
            "difference": plain(estimate.value),
            "standard_error": plain(estimate.standard_error),
            "interval": plain([estimate.low, estimate.high]),
        }
        for name, estimate in found.items()
    }
    if as_json:
        reasons = {side: one.numbers["reason"] for side, one in (("base", first), ("other", second))}
        about = {"base": str(first.source), "other": str(second.source), "reasons": reasons}
        typer.echo(json.dumps({**about, "scores": rows, "bootstrap": first.numbers["bootstrap"]}, indent=2))
        return
    table = Table("", "base", "other", "difference", "± s.e.", "95 % interval", box=None, padding=(0, 2, 0, 0))
    for name, row in rows.items():
        numbers = (row["base"], row["other"], row["difference"], row["standard_error"])
        table.add_row(*_row(name, numbers, row["interval"], signed=(2,)))
    terminal = console()
    terminal.print(table)
    typer.echo(_caveat(first.numbers["bootstrap"]))


def _asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given, by the names that `Settings` has for them; lists of numbers come as text."""
    asked = {name: value for name, value in given.items() if value is not None}
    if "ks" in asked:
        asked["ks"] = _numbers("--k", asked["ks"], int)
    if asked.get("far_levels"):
        asked["far_levels"] = _numbers("--tar-at-far", asked["far_levels"], float)
    elif "far_levels" in asked:  # an empty text: none are wanted
        asked["far_levels"] = ()
    return asked


def _measured(
    meant: Source, asked: Mapping[str, Any], labels: Path | None, out: Path | None, threads: int | None, device: str
) -> tuple[Path, Mapping[str, Any], Path | None]:
    """What was measured, the numbers, and the file that says how; a stored evaluation is read, all else is measured."""
    import torch

    from tcm_bench.evaluation.files import read_evaluation, summary, write_evaluation
    from tcm_bench.report.measured import evaluated, settings_of

    if threads:
        torch.set_num_threads(threads)
    own, origin = settings_of(meant) or (Settings(), None)
    if meant.kind == "evaluation":
        return meant.path, read_evaluation(meant.path).numbers, origin
    place, settings = meant.vectors(), replace(own, **asked)
    found, given = evaluated(place, settings, labels_file=labels, device=torch_device(device))
    if out:
        return place, write_evaluation(found, out, labels=given.classes), origin
    return place, summary(found), origin


def _tell(
    place: Path,
    numbers: Mapping[str, Any],
    origin: Path | None,
    asked: Mapping[str, Any],
    out: Path | None,
    as_json: bool,
) -> None:
    """An evaluation with how it was made, for a program or for people."""
    if as_json:
        of = {"settings_of": None if origin is None else str(origin), "settings_given": sorted(asked)}
        typer.echo(json.dumps({"source": str(place), **of, **numbers}, indent=2))
        return
    _show(place, numbers)
    typer.echo(_settings_line(numbers["settings"], origin, asked))
    if out:
        typer.echo(f"written: {out}")


def _numbers(option: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(word) for word in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} needs numbers with commas between them, got {text!r}") from error


def torch_device(name: str) -> "torch.device":
    """A device that is there.

    Raises:
        ValueError: If there is none of that name.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"there is no device {name!r}; give cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no {name} here: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs")
    return device


def _show(source: Path, numbers: Mapping[str, Any]) -> None:
    """An evaluation for people."""
    counts, settings = numbers["counts"], numbers["settings"]
    queries = "" if counts["queries"] == counts["images"] else f", {counts['queries']:,} of them queries"
    typer.echo(
        f"{source}: {counts['images']:,} images of {counts['classes']:,} classes{queries}; "
        f"{counts['positive_pairs']:,} positive and {counts['negative_pairs']:,} negative pairs, all counted"
    )
    table = Table("", "value", "± s.e.", "95 % interval", box=None, padding=(0, 2, 0, 0))
    for name, error in numbers["standard_errors"].items():
        table.add_row(*_row(name, (numbers[name], error), numbers["intervals"][name]))
    for name in details(numbers):
        table.add_row(*_row(name, (numbers[name],)))
    console().print(table)
    low, high = settings["far_bounds"]
    ends = " to ".join(
        "undefined" if numbers[end] is None else f"{numbers[end]:.4f}" for end in ("threshold_low", "threshold_high")
    )
    cost = Settings.of(settings).cost
    typer.echo(f"thresholds: {cost} {ends}, where {low:g} to {high:g} of the negative pairs are accepted")
    if counts["singletons"]:
        typer.echo(f"classes without a positive pair, hence not in OPIS: {counts['singletons']:,}")
    if unknown := counts.get("noise_unknown"):
        typer.echo(f"classes with too few images to know their noise, hence not in OPIS less noise: {unknown:,}")
    if numbers["reason"]:
        typer.echo(f"undefined: {numbers['reason']}")
    typer.echo(_caveat(numbers["bootstrap"]))


def _settings_line(settings: Mapping[str, Any], origin: Path | None, asked: Mapping[str, Any]) -> str:
    """What was measured how, and who says so."""

    def shown(value: Any) -> str:
        if not isinstance(value, list):
            return str(value)
        return (" and " if value and isinstance(value[0], list) else " to ").join(map(shown, value))

    values = ", ".join(f"{name} {shown(value)}" for name, value in settings.items())
    given = f"; as given: {', '.join(asked)}" if asked else ""
    return f"settings: {values}; {f'those of {origin}' if origin else 'the defaults'}{given}"


def _row(
    name: str,
    numbers: tuple[float | None, ...],
    interval: list[float | None] | None = None,
    signed: tuple[int, ...] = (),
) -> list[str]:
    """A score's cells: in percent, OPIS in thousandths."""
    how = score(name)
    digits = 3 if how.scale == 1000 else 2

    def cell(number: float | None, sign: str = "") -> str:
        return "–" if number is None else f"{number * how.scale:{sign}.{digits}f}"

    cells = [cell(number, "+" if place in signed else "") for place, number in enumerate(numbers)]
    if interval:
        sign = "+" if signed else ""
        cells.append("–" if None in interval else " to ".join(cell(end, sign) for end in interval))
    return [f"{how.title}, {how.unit}", *cells]


def _caveat(bootstrap: Mapping[str, Any]) -> str:
    return (
        f"errors: {bootstrap['resamples']:,} draws of classes; thresholds and network held fixed, so other training "
        "seeds are not in them"
    )
