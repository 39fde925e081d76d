"""What the input pipeline delivers, stage by stage, beside the bare JPEG decoder of the same machine in the same run.

    python tests/benchmarks/input_pipeline.py                          photo-like JPEGs of 500 x 375 and 1000 x 750 px
    python tests/benchmarks/input_pipeline.py --images DIR             your own
    python tests/benchmarks/input_pipeline.py --train --device cuda    training: JPEGs against tensors already there

Every round runs all stages in turn, so that what else the machine does meets all of them; a stage's share is the median
over rounds of the decoder's time by its own. The decoder works on files already in memory and throws its pixels away.
One process has one thread. Generated pictures are noise with the spectrum of photographs (amplitude 1/f) in three
correlated channels, JPEG quality 90, 4:2:0: deterministic, but with about three times the bytes of photographs of that
size, so that the decoder's part is larger than in life: quote figures of real photographs (``--images``) where you can.
"""

import argparse
import io
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from tcm_bench.data.datamodule import EvaluationBatches, TableDataset
from tcm_bench.data.decode import Pixels
from tcm_bench.data.image_cache import cached_images
from tcm_bench.data.loader import BatchLoader, Loader
from tcm_bench.data.table import ImageFiles, ImageTable, Paths, Splits
from tcm_bench.data.transforms import Augmentation, ImageTransform, Preprocessing

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
BATCH = 64


def photo_like(width: int, height: int, seed: int) -> bytes:
    """A JPEG of noise with the spectrum of photographs."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    spectrum[0, 0, 0] = 0
    layers = np.fft.irfft2(spectrum / frequency, s=(height, width))
    layers /= layers.std(axis=(1, 2), keepdims=True)
    gray, red, blue = layers * np.array([45, 14, 14]).reshape(3, 1, 1) + np.array([120, 0, 0]).reshape(3, 1, 1)
    pixels = np.clip(np.stack([gray + red, gray - (red + blue) / 2, gray + blue], axis=2), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def cpu_seconds(pids: list[int]) -> float:
    """CPU time that this process and these have used so far; theirs in hundredths of a second."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def children() -> list[int]:
    """This process' workers."""
    return [int(process.pid or 0) for process in multiprocessing.active_children()]


class Stages:
    """Named functions that each handle all images once, timed in turn."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.functions: dict[str, Callable[[], Any]] = {}

    def show(self, title: str, limit: str, rounds: int) -> None:
        """Print a table; the first round, in which workers start and files are read, does not count."""
        wall: dict[str, list[float]] = {name: [] for name in self.functions}
        cpu: dict[str, list[float]] = {name: [] for name in self.functions}
        for number in range(rounds + 1):
            for name, function in self.functions.items():
                pids = children()
                start, start_cpu = time.perf_counter(), cpu_seconds(pids)
                function()
                seconds = time.perf_counter() - start
                if number:
                    wall[name].append(seconds)
                    cpu[name].append(cpu_seconds(pids) - start_cpu)
        print(f"\n{title}\n{'':46} images/s   CPU ms/image   of the bare decoder (rounds)")
        for name in self.functions:
            shares = [bare / own for bare, own in zip(wall[limit], wall[name], strict=True)]
            print(
                f"{name:46} {self.images / statistics.median(wall[name]):8.0f}   "
                f"{1e3 * statistics.median(cpu[name]) / self.images:12.3f}   "
                f"{statistics.median(shares):.2f} ({min(shares):.2f} - {max(shares):.2f})"
            )


def transforms(size: int, resize: int) -> dict[str, ImageTransform]:
    """The chains of the paper's backbones, with scaled decoding off and on."""
    return {
        f"{kind}{', scaled decode' if scaled else ''}": chain
        for scaled in (False, True)
        for kind, chain in {
            "training": Augmentation(size, **IMAGENET, scaled_decode=scaled),
            "evaluation": Preprocessing(size, **IMAGENET, resize_px=resize, scaled_decode=scaled),
        }.items()
    }


def batches(items: int) -> EvaluationBatches:
    """All rows."""
    return EvaluationBatches(np.arange(items), BATCH)


def single(table: ImageTable, chains: dict[str, ImageTransform], stored: ImageTable, rounds: int) -> None:
    """One process without workers."""
    rows = range(len(table))
    files = [Path(table.paths[row]) for row in rows]  # type: ignore[attr-defined]
    data = [file.read_bytes() for file in files]
    decoded = [Pixels(simplejpeg.decode_jpeg(content)) for content in data]
    train, test = chains["training"], chains["evaluation"]
    small = [train(picture) for picture in decoded]

    def each(function: Callable[[int], Any]) -> Callable[[], None]:
        def run() -> None:
            for row in rows:
                function(row)

        return run

    def whole(table: ImageTable, chain: ImageTransform) -> Callable[[], None]:
        dataset = TableDataset(table, chain)

        def run() -> None:
            for indices in batches(len(table)):
                dataset[indices]

        return run

    stages = Stages(len(table))
    stages.functions = {
        "bare decoder": each(lambda row: simplejpeg.decode_jpeg(data[row])),
        "  Pillow's decoder": each(lambda row: np.asarray(Image.open(io.BytesIO(data[row])).convert("RGB"))),
        "  read the file and its header": each(lambda row: table.picture(row)),
        "  decode at 1/2": each(lambda row: table.picture(row).pixels(2)),
        "  crop, resize, flip (training)": each(lambda row: train(decoded[row])),
        "  resize, crop (evaluation)": each(lambda row: test(decoded[row])),
        "  stack": lambda: [torch.stack(small[start : start + BATCH]) for start in range(0, len(small), BATCH)],
        "  normalize a batch (the network's side)": lambda: [
            train.normalize(torch.stack(small[start : start + BATCH])) for start in range(0, len(small), BATCH)
        ],
        **{f"whole batches, {name}": whole(table, chain) for name, chain in chains.items()},
        "whole batches, training, cache": whole(stored, chains["training"]),
        "whole batches, evaluation, cache": whole(stored, chains["evaluation"]),
    }
    stages.show("one process", "bare decoder", rounds)


def _decode_part(part: tuple[int, int]) -> None:
    for content in PARTS[part[0] :: part[1]]:
        simplejpeg.decode_jpeg(content)


PARTS: list[bytes] = []  # what the decoding processes inherit


def parallel(
    table: ImageTable, chains: dict[str, ImageTransform], stored: ImageTable, rounds: int, processes: int
) -> None:
    """Several processes that only decode, and as many workers that make batches together, or each its own.

    The latter is how it was: without a copy of each batch, but with two batches for each worker in shared memory.
    """
    PARTS[:] = [Path(path).read_bytes() for path in table.paths]  # type: ignore[attr-defined]
    stages = Stages(len(table))
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        parts = [(number, processes) for number in range(processes)]
        stages.functions["bare decoder"] = lambda: pool.map(_decode_part, parts, chunksize=1)
        cases = [*chains.items(), ("training, cache", chains["training"]), ("evaluation, cache", chains["evaluation"])]
        for name, chain in cases:
            dataset = TableDataset(stored if name.endswith("cache") else table, chain)
            settings = {"num_workers": processes, "persistent_workers": True}
            together = BatchLoader(dataset, batches(len(table)), **settings)
            apart = Loader(dataset, None, sampler=batches(len(table)), **settings)
            for way, loader in (("together", together), ("a batch each", apart)):  # a new pass, keeping nothing
                stages.functions[f"{name}, {way}"] = partial(deque, loader, maxlen=0)
        stages.show(f"{processes} processes", "bare decoder", rounds)


def training(table: ImageTable, chain: ImageTransform, device: str, workers: int, steps: int) -> None:
    """Steps of a small network on JPEGs, and on tensors that are where it is."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 7, stride=4), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3, stride=2), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(64, 128),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    loader = BatchLoader(
        TableDataset(table, chain), batches(len(table)), num_workers=workers,
        persistent_workers=workers > 0, pin_memory=device != "cpu",
    )  # fmt: skip

    def inputs() -> Iterator[torch.Tensor]:
        while True:
            for batch in loader:
                yield batch.inputs

    def seconds(source: Iterator[torch.Tensor]) -> float:
        start = time.perf_counter()
        for images in itertools.islice(source, steps):
            loss = network(chain.normalize(images.to(device, non_blocking=True))).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    real = inputs()
    synthetic = itertools.repeat(next(real).to(device))
    rates = []
    for number in range(6):
        times = seconds(synthetic), seconds(real)
        if number:
            rates.append([steps * BATCH / time for time in times])
    tensors, jpegs = (statistics.median(column) for column in zip(*rates, strict=True))
    share = statistics.median(own / limit for limit, own in rates)
    print(f"training on {device}, {workers} workers: {jpegs:.0f} images/s, {tensors:.0f} on tensors: {share:.2f}")


def measure(folder: Path, names: list[str], options: argparse.Namespace) -> None:
    """All tables for the images of one folder."""
    table = ImageFiles(np.zeros(len(names), dtype=int), ["any"], Paths(folder, names))
    other = ImageFiles(np.zeros(1, dtype=int), ["other"], Paths(folder, names[:1]))
    chains = transforms(options.size, options.resize)
    size = statistics.mean((folder / name).stat().st_size for name in names) / 1e3
    first = table.picture(0)
    print(
        f"\n{len(names)} images, the first {first.width} x {first.height} px, {size:.0f} kB each; to {options.size} px"
    )
    with tempfile.TemporaryDirectory() as cache:
        stored = cached_images(
            Splits(table, other, "benchmark"), chains["training"], chains["evaluation"], cache_dir=cache, limit_gb=20
        ).train
        assert isinstance(stored, ImageTable)
        if options.train:
            for name, source in (("JPEGs", table), ("cache", stored)):
                print(name, end=": ")
                training(source, chains["training, scaled decode"], options.device, options.processes, options.steps)
            return
        single(table, chains, stored, options.rounds)
        parallel(table, chains, stored, options.rounds, options.processes)


def main() -> None:
    parser = argparse.ArgumentParser(description="Images per second of the input pipeline, stage by stage.")
    parser.add_argument("--images", type=Path, help="folder of JPEGs, at any depth")
    parser.add_argument("--count", type=int, default=256, help="images to use")
    parser.add_argument("--sizes", nargs="+", default=["500x375", "1000x750"], help="of generated images")
    parser.add_argument("--size", type=int, default=224, help="side of the network's input")
    parser.add_argument("--resize", type=int, default=256, help="shorter side before the center crop")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="workers, or decoders")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", action="store_true", help="measure training instead")
    parser.add_argument("--steps", type=int, default=8, help="of a round of training")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.images:
        found = [path for path in sorted(options.images.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
        measure(options.images, [str(path.relative_to(options.images)) for path in found[: options.count]], options)
        return
    for size in options.sizes:
        width, height = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            names = [f"{number}.jpg" for number in range(options.count)]
            for number, name in enumerate(names):
                (Path(folder) / name).write_bytes(photo_like(width, height, number))
            measure(Path(folder), names, options)


if __name__ == "__main__":
    main()
