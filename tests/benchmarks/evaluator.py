"""What exact evaluation costs beside the searches it replaces: medians of interleaved rounds.

    python tests/benchmarks/evaluator.py                    # whole commands on both spectra, 60,868 x 512
    python tests/benchmarks/evaluator.py --size inat        # 136,093 x 512, 2,452 classes
    python tests/benchmarks/evaluator.py --parts            # what it consists of, in one process
    python tests/benchmarks/evaluator.py --parts --device cuda   # absolute times are worth writing down there

By default two whole processes are compared, start-up included: `tcm-bench evaluate FILE --json`, bootstrap and all, and
one that loads the same file and has faiss search the two nearest of every row. Processor time is that of
all threads: where others use the machine, too, its ratio says more than that of the time on the clock. Embeddings are
clusters with a spectrum that falls as that of trained networks does, and with a flat one: all cosines of different
classes then lie close together, the hardest case for the evaluator.

`--parts`: (a) the bare upper triangle, tile by tile; (b) the bare full product; (c) faiss, top 2 of every row; (d)
pytorch-metric-learning, R@1; (e) a straightforward OPIS in torch, without its calibration range; (f) `evaluate`: R@k,
range, curves of every class, OPIS, 10%-OPIS. Peak memory is that of a process of its own beside the embeddings.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

SIZES = {"small": (20_000, 4_000), "sop": (60_868, 11_316), "inat": (136_093, 2_452)}
SPECTRA = {"falling": 1.0, "flat": 0.0}
KS = (1, 2, 4, 8)


def clusters(items: int, classes: int, spectrum: float, dim: int = 512) -> tuple[Tensor, Tensor]:
    """Unit rows around the centers of their classes; the k-th direction has variance ``k ** -spectrum``.

    Classes have 2 items to 12, or to twice the mean.
    """
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1, dim + 1) ** (-spectrum / 2)
    more = torch.arange(classes).repeat(max(12, 2 * items // classes) - 2)
    more = more[torch.randperm(len(more), generator=generator)[: items - 2 * classes]]
    labels = torch.cat([torch.arange(classes).repeat(2), more])
    centers, noise = torch.randn(classes, dim, generator=generator), torch.randn(items, dim, generator=generator)
    return torch.nn.functional.normalize((centers[labels] + 0.7 * noise) * scale), labels


def upper_triangle(x: Tensor, labels: Tensor) -> None:
    """Every pair multiplied once, by the library and in tiles of the shape that the evaluator multiplies with."""
    _tiles(x, lambda top: top)


def full_product(x: Tensor, labels: Tensor) -> None:
    """Every pair multiplied twice, in the same way."""
    _tiles(x, lambda top: 0)


def _tiles(x: Tensor, start: Callable[[int], int]) -> None:
    if x.device.type != "cpu":
        for top in range(0, len(x), 8192):
            for left in range(start(top), len(x), 8192):
                x[top : top + 8192] @ x[left : left + 8192].T
        return
    rows, tops = x.numpy(), iter(range(0, len(x), 512))

    def work() -> None:
        out = np.empty(512 * 512, dtype=np.float32)
        for top in tops:
            for left in range(start(top), len(x), 512):
                a, b = rows[top : top + 512], rows[left : left + 512]
                np.dot(a, b.T, out=out[: len(a) * len(b)].reshape(len(a), len(b)))

    threads = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:  # one product a thread at a time
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()


def faiss_top_2(x: Tensor, labels: Tensor) -> None:
    """The exact search behind R@1."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x.cpu().numpy())
    index.search(x.cpu().numpy(), 2)


def accuracy_calculator(x: Tensor, labels: Tensor) -> None:
    """pytorch-metric-learning's R@1."""
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    AccuracyCalculator(include=("precision_at_1",), k=1).get_accuracy(x, labels)


def straightforward_opis(x: Tensor, labels: Tensor, steps: int = 101) -> None:
    """Utility of every class over a given range of distances by bucketizing whole strips."""
    classes = int(labels.max()) + 1
    edges = torch.linspace(1.0, 1.3, steps, device=x.device)
    histogram = torch.zeros(2, classes * (steps + 1), dtype=torch.int64, device=x.device)
    for rows, own in zip(x.split(512), labels.split(512), strict=True):
        distance = (2 - 2 * rows @ x.T).clamp(min=0).sqrt()
        cell = own[:, None] * (steps + 1) + torch.bucketize(distance, edges)
        same = own[:, None] == labels
        for side, chosen in enumerate((same, ~same)):
            histogram[side] += cell[chosen].bincount(minlength=histogram.shape[1])
    accepted = histogram.view(2, classes, steps + 1).cumsum(dim=2)
    shares = accepted[..., :-1] / accepted[..., -1:]
    utility = 2 * shares[0] * (1 - shares[1]) / (shares[0] + 1 - shares[1])
    utility.var(dim=0, correction=0).mean()


def ours(x: Tensor, labels: Tensor) -> None:
    """Everything."""
    from tcm_bench.evaluation.evaluate import evaluate

    evaluate(x, labels, ks=KS)


CASES: dict[str, Callable[[Tensor, Tensor], None]] = {
    "(a) upper triangle, bare": upper_triangle,
    "(b) full product, bare": full_product,
    "(c) faiss IndexFlatIP top 2": faiss_top_2,
    "(d) AccuracyCalculator R@1": accuracy_calculator,
    "(e) straightforward OPIS": straightforward_opis,
    "(f) evaluate, everything": ours,
}


def seconds(case: str, x: Tensor, labels: Tensor) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    CASES[case](x, labels)
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_gib(case: str, arguments: argparse.Namespace, result: multiprocessing.SimpleQueue) -> None:
    """Memory that a case takes beside interpreter, libraries and embeddings, in a process of its own."""
    torch.set_num_threads(arguments.threads)
    small = clusters(500, 50, arguments.spectrum)
    CASES[case](*small)  # imports and compiles
    x, labels = clusters(*SIZES[arguments.size], arguments.spectrum)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far: that of the parent and of making the data
    before = status_kib("VmRSS")
    CASES[case](x, labels)
    result.put((status_kib("VmHWM") - before) / 2**20)


def status_kib(field: str) -> int:
    """A line of this process's status."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


FAISS = """
import sys, faiss, numpy
faiss.omp_set_num_threads(int(sys.argv[2]))
x = numpy.load(sys.argv[1])["embeddings"]
index = faiss.IndexFlatIP(x.shape[1])
index.add(x)
index.search(x, 2)
"""


def process(command: list[str], threads: int) -> tuple[float, float, float]:
    """Wall time in s, processor time in s and peak memory in GiB of a whole process."""
    start = time.perf_counter()
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    _, status, usage = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise SystemExit(f"{command[0]} ended with status {started.returncode}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def whole_commands(size: str, threads: int, rounds: int) -> None:
    """Print what the command takes beside a search by faiss, a spectrum after the other."""
    for name, spectrum in SPECTRA.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "embeddings.npz"
            x, labels = clusters(*SIZES[size], spectrum)
            np.savez(file, embeddings=x.numpy(), labels=labels.numpy())
            print(f"{name} spectrum, {len(x):,} x {x.shape[1]}, {SIZES[size][1]:,} classes, {threads} threads")
            del x, labels
            commands = {
                "faiss, top 2": [sys.executable, "-c", FAISS, str(file), str(threads)],
                "tcm-bench evaluate": [
                    *(str(Path(sys.executable).with_name("tcm-bench")), "evaluate", str(file)),
                    *("--json", "--threads", str(threads)),
                ],
            }
            for command in commands.values():
                process(command, threads)  # compiles, and has the file in memory
            found = [{case: process(command, threads) for case, command in commands.items()} for _ in range(rounds)]
        for case in commands:
            wall, processor, peak = (statistics.median(times[case][part] for times in found) for part in range(3))
            ratios = (
                statistics.median(times[case][part] / times["faiss, top 2"][part] for times in found)
                for part in range(2)
            )
            print(f"{case:20} {wall:7.2f} s ({next(ratios):.2f} x)", end="  ")
            print(f"{processor:7.2f} s of processors ({next(ratios):.2f} x)  {peak:.2f} GiB", flush=True)


def main() -> None:
    """Print one line a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sop")
    parser.add_argument("--parts", action="store_true", help="what it consists of, in this process")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spectrum", type=float, default=1.0, help="of the parts; 0 is flat")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cases", default="abcdef", help="letters of the cases to run")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory (CPU)")
    arguments = parser.parse_args()
    if not arguments.parts:
        whole_commands(arguments.size, arguments.threads, arguments.rounds)
        return
    torch.set_num_threads(arguments.threads)
    chosen = [case for case in CASES if case[1] in arguments.cases]
    x, labels = (part.to(arguments.device) for part in clusters(*SIZES[arguments.size], arguments.spectrum))
    print(f"{len(x):,} x {x.shape[1]}, {int(labels.max()) + 1:,} classes, {arguments.threads} threads, {x.device}")
    for case in chosen:
        seconds(case, *(part.to(arguments.device) for part in clusters(2000, 400, arguments.spectrum)))
    rounds = [{case: seconds(case, x, labels) for case in chosen} for _ in range(arguments.rounds)]
    for case in chosen:
        median = statistics.median(times[case] for times in rounds)
        shares = [
            f"{statistics.median(times[case] / times[other] for times in rounds):5.2f} x {other[:3]}"
            for other in chosen
            if other[1] in "abc"
        ]
        print(f"{case:30} {median:8.2f} s  {'  '.join(shares)}", flush=True)
    if arguments.memory:
        spawn = multiprocessing.get_context("spawn")
        for case in chosen:
            result = spawn.SimpleQueue()
            process = spawn.Process(target=peak_gib, args=(case, arguments, result))
            process.start()
            process.join()
            print(f"{case:30} {result.get():8.2f} GiB more at its peak" if process.exitcode == 0 else f"{case} failed")


if __name__ == "__main__":
    main()
