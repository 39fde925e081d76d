"""What embeddings are worth: `tcm-bench evaluate` of any file or run, and `compare` of two evaluations."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from tcm_bench import ledger
from tcm_bench.cli.runs import OutputDir, console, run_folder

if TYPE_CHECKING:
    import torch

    from tcm_bench.evaluation_files import StoredEvaluation

AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


def evaluate(
    file: Annotated[
        str,
        typer.Argument(
            help="`.safetensors` or `.npz` with `embeddings`, `labels` and, if they differ, `query` and `gallery`; "
            "`.npy` with the embeddings; or a run: its id, the start of its id, or its folder."
        ),
    ],
    output_dir: OutputDir,
    labels: Annotated[
        Path | None,
        typer.Option(help="Labels in a file of their own: `.npy`, `.txt`, or `.csv` with a column `label`."),
    ] = None,
    axis: Annotated[Literal["distance", "similarity"], typer.Option(help="Threshold axis.")] = "distance",
    far_bounds: Annotated[
        tuple[float, float],
        typer.Option(metavar="LOW HIGH", help="False accept rates at the ends of the calibration range."),
    ] = (0.01, 0.1),
    k: Annotated[str, typer.Option(help="Numbers of neighbors inspected for R@k.")] = "1,2,4,8",
    steps: Annotated[int, typer.Option(help="Points of the threshold grid.")] = 101,
    eps: Annotated[float, typer.Option(help="Share of the classes called worst.")] = 0.1,
    tpr_at_far: Annotated[
        str, typer.Option(help="False accept rates at which the true accept rate is wanted, as `0.001,0.01`.")
    ] = "",
    threads: Annotated[int | None, typer.Option(min=1, help="How many compute.", show_default="one a core")] = None,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where to compute.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json, classes.parquet and curves.parquet.", show_default="not stored"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """R@k, OPIS and 10%-OPIS of embeddings, exactly and over all pairs, with their errors over classes."""
    source = _embeddings_file(file, output_dir)
    ks = _numbers("--k", k, int)
    far_levels = _numbers("--tpr-at-far", tpr_at_far, float) if tpr_at_far else ()
    if out:
        out.mkdir(parents=True, exist_ok=True)  # better refused now than after minutes
    import torch

    from tcm_bench.data.embedding_file import embedding_set
    from tcm_bench.evaluation_files import summary, write_evaluation
    from tcm_bench.functional.evaluation import evaluate as evaluation

    if threads:
        torch.set_num_threads(threads)
    place = _device(device)
    given = embedding_set(source, labels)
    roles = {name: role.to(place) for name in ("query", "gallery") if (role := getattr(given, name)) is not None}
    settings: dict[str, Any] = {
        "axis": axis,
        "far_bounds": far_bounds,
        "steps": steps,
        "c": 1.0,
        "eps": eps,
        "ranking": "mean",
    }
    found = evaluation(
        given.embeddings.to(place),
        given.labels.to(place),
        ks=ks,
        far_levels=far_levels,
        **roles,
        **settings,
    )
    numbers = write_evaluation(found, out, settings, labels=given.classes) if out else summary(found, settings)
    if as_json:
        typer.echo(json.dumps({"source": str(source), **numbers}, indent=2))
        return
    _show(source, numbers)
    if out:
        typer.echo(f"written: {out}")


def compare(
    base: Annotated[
        str, typer.Argument(help="A run (its id, the start of its id, or its folder), or what `evaluate --out` wrote.")
    ],
    other: Annotated[str, typer.Argument(help="Another one, measured on the same test set.")],
    output_dir: OutputDir,
    as_json: AsJson = False,
) -> None:
    """What two networks differ by on the same test set: OTHER - BASE of every score, with its error over classes."""
    from tcm_bench.evaluation_files import difference, read_evaluation

    def stored(name: str) -> "StoredEvaluation":
        return read_evaluation(Path(name) if Path(name).is_dir() else run_folder(name, output_dir))

    first, second = stored(base), stored(other)
    found = difference(first, second)
    rows = {
        name: {
            "base": first.numbers[name],
            "other": second.numbers[name],
            "difference": _or_none(estimate.value),
            "standard_error": _or_none(estimate.standard_error),
            "interval": [_or_none(estimate.low), _or_none(estimate.high)],
        }
        for name, estimate in found.items()
    }
    if as_json:
        reasons = {side: one.numbers["reason"] for side, one in (("base", first), ("other", second))}
        about = {"base": str(first.folder), "other": str(second.folder), "reasons": reasons}
        typer.echo(json.dumps({**about, "scores": rows, "bootstrap": first.numbers["bootstrap"]}, indent=2))
        return
    table = Table("", "base", "other", "difference", "± s.e.", "95 % interval", box=None, padding=(0, 2, 0, 0))
    for name, row in rows.items():
        numbers = (row["base"], row["other"], row["difference"], row["standard_error"])
        table.add_row(*_row(name, numbers, row["interval"], signed=(2,)))
    terminal = console()
    terminal.print(table)
    typer.echo(_caveat(first.numbers["bootstrap"]))


def _embeddings_file(given: str, output_dir: Path) -> Path:
    """The file that is meant: itself, or that of a run.

    Raises:
        ValueError: If there is none.
    """
    path = Path(given)
    if path.is_file() and path.name != ledger.WEIGHTS:
        return path
    if not path.exists() and (path.suffix or len(path.parts) > 1):
        raise ValueError(f"there is no file {path}")
    folder = path.parent if path.is_file() else path if path.is_dir() else run_folder(given, output_dir)
    if not (folder / ledger.EMBEDDINGS).is_file():
        raise ValueError(
            f"{folder} holds no {ledger.EMBEDDINGS}, which a run stores when it finishes; give the run's command "
            "again, with force=true if it has finished"
        )
    return folder / ledger.EMBEDDINGS


def _numbers(option: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(word) for word in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} needs numbers with commas between them, got {text!r}") from error


def _device(name: str) -> "torch.device":
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
    for name in (name for name in numbers if name.startswith("tpr_at_far_")):
        table.add_row(*_row(name, (numbers[name],)))
    console().print(table)
    low, high = settings["far_bounds"]
    ends = " to ".join("undefined" if numbers[end] is None else f"{numbers[end]:.4f}" for end in ("d_min", "d_max"))
    typer.echo(f"thresholds: {settings['axis']} {ends}, where {low:g} to {high:g} of the negative pairs are accepted")
    if counts["singletons"]:
        typer.echo(f"classes without a positive pair, hence not in OPIS: {counts['singletons']:,}")
    if numbers["reason"]:
        typer.echo(f"undefined: {numbers['reason']}")
    typer.echo(_caveat(numbers["bootstrap"]))


def _row(
    name: str,
    numbers: tuple[float | None, ...],
    interval: list[float | None] | None = None,
    signed: tuple[int, ...] = (),
) -> list[str]:
    """A score's cells: in percent, OPIS in thousandths."""
    thousandths = name.startswith("opis")
    scale, digits = (1000, 3) if thousandths else (100, 2)

    def cell(number: float | None, sign: str = "") -> str:
        return "–" if number is None else f"{number * scale:{sign}.{digits}f}"

    cells = [cell(number, "+" if place in signed else "") for place, number in enumerate(numbers)]
    if interval:
        sign = "+" if signed else ""
        cells.append("–" if None in interval else " to ".join(cell(end, sign) for end in interval))
    return [_title(name, "e-3" if thousandths else "%"), *cells]


def _title(name: str, unit: str) -> str:
    """A score's name for people.

    Example:
        >>> [_title(name, "%") for name in ("recall_at_1", "opis", "opis_10pct", "tpr_at_far_0_1pct")]
        ['R@1, %', 'OPIS, %', '10%-OPIS, %', 'TPR at FAR 0.1%, %']
    """
    words = name.replace("recall_at_", "R@").replace("tpr_at_far_", "TPR at FAR ")
    words = f"{words.removeprefix('opis_')}-OPIS" if words.startswith("opis_") else words.replace("opis", "OPIS")
    return f"{words.replace('pct', '%').replace('_', '.')}, {unit}"


def _caveat(bootstrap: Mapping[str, Any]) -> str:
    return (
        f"errors: {bootstrap['resamples']:,} draws of classes; thresholds and network held fixed, so other training "
        "seeds are not in them"
    )


def _or_none(number: float) -> float | None:
    return None if math.isnan(number) else number
