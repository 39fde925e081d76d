"""A trained network put to use: `tcm-bench embed`."""

from pathlib import Path
from typing import Annotated

import typer

from tcm_bench.cli.evaluate import torch_device
from tcm_bench.cli.shared import OutputDir, TrustedPackages
from tcm_bench.progress import progress
from tcm_bench.report.source import run_folder


def embed(
    run: Annotated[str, typer.Argument(help="A finished run: its id, the start of its id, or its folder.")],
    images: Annotated[
        Path,
        typer.Argument(
            help="A folder of images, or of a folder for each class, whose names become the labels; one image; a .csv "
            "table with the columns path and, if known, label; for a run on vectors a file of vectors."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write: .npz or .safetensors.")],
    output_dir: OutputDir,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda", help="Where to compute.", show_default="cuda if there is one")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; changes no result.")] = 64,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode; 0: this one.")] = 0,
    trusted_package: TrustedPackages = None,
) -> None:
    """Embed new images with a trained run: `embeddings` of unit norm, `labels` if known, `paths`.

    `tcm-bench evaluate OUT` measures them.
    """
    folder = run_folder(run, output_dir)
    import torch

    from tcm_bench.runs.trained import check_format, embedded, write_embedded

    check_format(out)  # better refused now than after minutes
    place = torch_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with progress("embedding") as tell:
        found = embedded(
            folder,
            images,
            trusted=trusted_package or (),
            device=place,
            batch_size=batch_size,
            num_workers=workers,
            on_progress=tell,
        )
    write_embedded(found, out)
    items, dim = found.embeddings.shape
    typer.echo(f"written: {out}, {items:,} embeddings of {dim} dimensions")
