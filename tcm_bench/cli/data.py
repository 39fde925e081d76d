"""Datasets: `tcm-bench data list`, `prepare`, `verify`, `stats` and `table`."""

import csv
import io
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from typer.core import TyperCommand

from tcm_bench.cli.shared import AsJson
from tcm_bench.progress import progress

if TYPE_CHECKING:
    from tcm_bench.data.table import Splits
    from tcm_bench.prepare.catalog import Dataset
    from tcm_bench.prepare.summary import Summary
    from tcm_bench.prepare.verify import Verification

SHOWN_FAULTS = 20  # of each kind
BUNDLED = {  # tracked with the code (data/README.md): what a class is; classes and images to train and to test
    "quickdraw": ("things, sketched by hand", (172, 17_200), (173, 17_300)),
    "emoji": ("emoji, by several artists", (538, 2_795), (539, 2_816)),
    "icons": ("ideas, in 24 icon sets each", (120, 2_880), (120, 2_880)),
    "kanji": ("kanji, in 24 typefaces", (120, 2_880), (120, 2_880)),
    "hangul": ("Hangul syllables, in 24 typefaces", (120, 2_880), (120, 2_880)),
}
OWN = {  # brought by the user: what it is, and what --root names
    "folder": ("your images, a folder for each class", "the folder"),
    "table": ("your images, listed in a .csv or .parquet file", "the file"),
}

data_app = typer.Typer(
    name="data",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Datasets: what there is, how to get it, and whether a copy is what it should be.",
)

Name = Annotated[str, typer.Argument(help="Of a dataset: see `tcm-bench data list`.")]
Root = Annotated[
    Path | None,
    typer.Option(help="Folder of the dataset (`table`: the .csv or .parquet file).", show_default="data/NAME"),
]
Subset = Annotated[bool, typer.Option("--subset", help="Accept fewer classes and images than the dataset's.")]
Processes = Annotated[int | None, typer.Option(min=1, help="How many read images.", show_default="one a core")]


class SeveralAfterFrom(TyperCommand):
    """Lets several paths follow one `--from`, which options cannot do otherwise: each path gets a `--from` of its own.

    The paths end at the next option or at `--`; `--from=PATH` takes that one path. If no other word can be the
    dataset's name, the last path is it: `prepare --from a.zip b.zip cars`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give each path its option, then parse as ever."""
        end = args.index("--") if "--" in args else len(args)
        words: list[str] = []
        several = False
        for word, following in pairwise([*args[:end], "--"]):
            if word == "--from":
                several = True
                if following.startswith("-"):
                    raise typer.BadParameter("needs a path, or several", ctx=ctx, param_hint="--from")
            elif several and not word.startswith("-"):
                words += ["--from", word]
            else:
                several = False
                words.append(word)
        words += args[end:]
        values, *_ = self.make_parser(ctx).parse_args(args=list(words))
        if not isinstance(values["name"], str) and words.count("--from") > 1:
            del words[len(words) - 1 - words[::-1].index("--from")]
        return super().parse_args(ctx, words)


def list_datasets() -> None:
    """What there is, how large it is, whether it is here, and how it is obtained."""
    from tcm_bench.prepare.catalog import DATASETS
    from tcm_bench.runs.naming import PROJECT_ROOT

    table = Table(
        "name", "what it is", "train: classes / images", "test", "download", "here", "how to get it", "used by",
        box=None, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for name, dataset in DATASETS.items():
        counts = (_count(*dataset.counts[side]) for side in ("train", "test"))
        here = _presence(PROJECT_ROOT / "data" / name)
        table.add_row(name, dataset.title, *counts, _download(dataset), here, _way(dataset), _config(name))
    for name, (what, train, test) in BUNDLED.items():
        table.add_row(name, what, _count(*train), _count(*test), "–", "yes", "comes with the code", _config(name))
    for name, (what, root) in OWN.items():
        table.add_row(name, what, "–", "–", "–", "–", f"your own: --root is {root}", _config(name))
    console = Console()
    if not console.is_terminal:
        console.width = 200
    console.print(table, markup=False, highlight=False)


def prepare(
    name: Name,
    sources: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="PATH ...", help="Archives you have, or folders that hold them."),
    ] = None,
    root: Root = None,
) -> None:
    """Get a dataset and unpack it; a second call goes on where the first was stopped."""
    if (dataset := _in_catalog(name)) is None:
        raise ValueError(f"{name} needs no preparation; `tcm-bench data verify {name}` looks at it")
    from tcm_bench.prepare.staging import prepare as prepared

    prepared(dataset, _located(name, root).root, sources, say=lambda line: typer.echo(line, err=True))


def verify(
    name: Name,
    root: Root = None,
    subset: Subset = False,
    as_json: AsJson = False,
    processes: Processes = None,
) -> None:
    """Check counts, list and every image of a dataset, and that no image is on both sides; status 1 on any fault."""
    source = _located(name, root)
    from tcm_bench.prepare.verify import verify as verification

    with progress("reading images") as tell:
        found = verification(
            source.splits_of, source.root, subset=subset, benchmark=source.benchmark, remedy=source.remedy,
            processes=processes, on_progress=tell,
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"name": name, "root": str(source.root), **found.as_json()}, indent=2))
    else:
        for line in _verdict(source, found, subset):
            typer.echo(line)
        if found.benchmark and source.benchmark:
            verdict, reason = found.benchmark
            typer.echo(f"is it the benchmark {source.benchmark.title}? {verdict}: {reason}")
    if not found.ok:
        raise typer.Exit(1)


def stats(name: Name, root: Root = None, subset: Subset = False, processes: Processes = None) -> None:
    """What the classes and images are like: how many, how large, which formats."""
    source = _located(name, root)
    splits = source.splits_of(source.root, subset=subset)
    from tcm_bench.prepare.summary import summary

    for side, table in (("train", splits.train), ("test", splits.test)):
        with progress(f"{side}: reading headers") as tell:
            described = summary(table, processes, tell)
        for line in _description(side, described):
            typer.echo(line)


def table(
    name: Name,
    split: Annotated[Literal["train", "test"], typer.Option(help="Which side.")],
    root: Root = None,
) -> None:
    """Print one side as CSV: path, label (counted from 0) and name of the class; a subset is accepted."""
    source = _located(name, root)
    splits = source.splits_of(source.root, subset=True)
    from tcm_bench.prepare.verify import item_paths

    side = {"train": splits.train, "test": splits.test}[split]
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path is bytes, whatever the terminal's encoding
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("path", "label", "class_name"))
    for path, label in zip(item_paths(side, source.root, split), side.labels.tolist(), strict=True):
        rows.writerow((path, label, side.class_names[label]))
    sys.stdout.flush()  # a reader that has gone is told of here, not while Python ends


class Located(NamedTuple):
    """Where a dataset lies and how it is read.

    Attributes:
        splits_of: Called as ``splits_of(root, subset=...)``.
        remedy: What to do about a damaged copy; None: the images are the user's own.
        benchmark: What a copy can be compared with, if it is one of the four.
    """

    name: str
    root: Path
    splits_of: "Callable[..., Splits]"
    remedy: str | None = None
    benchmark: "Dataset | None" = None


def _in_catalog(name: str) -> "Dataset | None":
    """What can be prepared under that name, which in conf/ is an identifier; None: it is only described there.

    Raises:
        ValueError: If there is no such name.
    """
    from tcm_bench.prepare.catalog import DATASETS
    from tcm_bench.runs.naming import PROJECT_ROOT

    key = name.lower().replace("_", "-")
    described = {path.stem for path in (PROJECT_ROOT / "conf" / "data").glob("[!_]*.yaml")}
    if key in DATASETS or name in described:
        return DATASETS.get(key)
    known = sorted({*DATASETS, *(stem for stem in described if stem.replace("_", "-") not in DATASETS)})
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"there is no dataset {name!r}{hint} (known: {', '.join(known)})")


def _located(name: str, root: Path | None) -> Located:
    """The dataset of that name, in a folder given or in its own.

    Raises:
        ValueError: If there is no such name.
    """
    from tcm_bench.prepare.staging import PREPARED
    from tcm_bench.runs.naming import PROJECT_ROOT

    if (dataset := _in_catalog(name)) is None:
        return _described(name, root)
    place = (root or PROJECT_ROOT / "data" / dataset.name).absolute()
    given = f" --root {shlex.quote(str(root))}" if root else ""
    # A prepared copy is left alone; another folder may hold anything, the archives too.
    moved = "move it elsewhere and " if (place / PREPARED).exists() else ""
    remedy = (
        f"if this is a copy of {dataset.name}, {moved}run `tcm-bench data prepare {dataset.name}{given}` (with --from "
        "ARCHIVES if you have them); give another folder with --root, accept a part with --subset"
    )
    return Located(dataset.name, place, dataset.splits, remedy, None if dataset.fingerprints is None else dataset)


def _described(name: str, root: Path | None) -> Located:
    """A dataset as `conf/data/NAME.yaml` describes it: the bundled ones, the user's own, and any that was added."""
    from omegaconf import OmegaConf

    from tcm_bench.runs.build import build
    from tcm_bench.runs.naming import composed

    data = composed(f"data={name}").data
    place = "file" if "file" in [*data] else "root"  # a missing value does not count as `in`
    if root is None and (name in OWN or OmegaConf.is_missing(data, place)):
        raise ValueError(f"say where it lies: `--root PATH`, for {name} {OWN.get(name, ('', 'its place'))[1]}")

    def splits_of(root: Path, *, subset: bool) -> "Splits":
        data[place] = str(root)
        if "sha256" in data:
            data.sha256 = None  # the hash of all bytes names a run; here the images are read one by one
        if "subset" in data:
            data.subset = subset
        if "images_per_class" in data.splits:
            data.splits.images_per_class = None
        return build(data.splits)

    return Located(name, Path(root or data[place]).absolute(), splits_of)


def _verdict(source: Located, found: "Verification", subset: bool) -> Iterator[str]:
    """What was found, for people: many faults of one kind are not all listed."""
    counts = " and ".join(
        f"{count.images:,} {side} images of {count.classes:,} classes"
        for side, count in (("train", found.train), ("test", found.test))
    )
    if found.ok:
        what = f"a subset of {source.name}" if subset else source.name
        yield f"{source.root} is {what}, all well: {counts}, list sha256 {found.fingerprint}"
        return
    for kind, group in groupby(sorted(found.faults, key=lambda fault: fault.kind), lambda fault: fault.kind):
        faults = list(group)
        yield f"{kind} ({len(faults):,}):"
        yield from (f"  {fault.path}: {fault.reason}" for fault in faults[:SHOWN_FAULTS])
        if len(faults) > SHOWN_FAULTS:
            yield f"  and {len(faults) - SHOWN_FAULTS:,} more, listed by --json"
    yield f"{source.root} is not what {source.name} should be: {len(found.faults):,} faults; {counts}"


def _description(side: str, found: "Summary") -> Iterator[str]:
    """One side of a dataset in a few lines."""
    from tcm_bench.prepare.summary import histogram

    per_class = found.images_per_class
    small, large = int(per_class.argmin()), int(per_class.argmax())
    yield f"{side}: {len(per_class):,} classes, {per_class.sum():,} images"
    yield f"  images per class: {_spread(per_class)}"
    yield from (f"    {line}" for line in histogram(per_class))
    yield f"  smallest class: {found.class_names[small]} ({per_class[small]:,})"
    yield f"  largest class: {found.class_names[large]} ({per_class[large]:,})"
    if len(found.widths):
        yield f"  width: {_spread(found.widths)} px"
        yield f"  height: {_spread(found.heights)} px"
        yield f"  formats: {', '.join(f'{n:,} {kind}' for kind, n in found.kinds.items())}"
    if found.size_bytes is not None:
        yield f"  on disk: {decimal(found.size_bytes)}"
    if found.unreadable:
        yield f"  unreadable: {found.unreadable:,} (`tcm-bench data verify` names them)"


def _spread(values: Any) -> str:
    import numpy as np

    return f"{values.min():,} to {values.max():,}, median {np.median(values):,.0f}"


def _count(classes: int, images: int) -> str:
    return f"{classes:,} / {images:,}"


def _config(name: str) -> str:
    return f"data={name.replace('-', '_')}"


def _presence(folder: Path) -> str:
    from tcm_bench.prepare.verify import PREPARED

    if (folder / PREPARED).is_file():
        return "yes"
    return "not prepared" if folder.is_dir() and any(folder.iterdir()) else "no"


def _download(dataset: "Dataset") -> str:
    sizes = [archive.size for archive in dataset.archives]
    return decimal(sum(filter(None, sizes))) if any(sizes) else "–"


def _way(dataset: "Dataset") -> str:
    if dataset.build:
        return "package manager"
    linked = [bool(archive.urls) for archive in dataset.archives]
    return "download" if all(linked) else "download, partly by hand" if any(linked) else "by hand"


data_app.command("list")(list_datasets)
data_app.command("prepare", cls=SeveralAfterFrom)(prepare)
data_app.command()(verify)
data_app.command()(stats)
data_app.command()(table)
