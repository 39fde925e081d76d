"""What the index of iNaturalist-2018 costs: 461,939 images. Run by hand: ``python tests/benchmarks/inat_index.py``.

Prints the wall time and the resident memory that reading the two lists takes in a fresh process, and how much a worker
of a data loader comes to own by itself while it reads every path of an epoch: pages that it had shared with the process
it was forked from, until it wrote to them.
"""

import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from torch.utils.data import DataLoader, Dataset, get_worker_info

from tcm_bench.data.datasets.inat import COUNTS, inat

LINE = "train_val2018/Plantae/{species}/{image:032x}.jpg\n"
MIB = 2**20
BLOCK = 1000


def write_lists(root: Path) -> None:
    """Lists of the real size, classes of unequal size, lines of the real length."""
    first = 0
    for side, (classes, images) in COUNTS.items():
        lines = [LINE.format(species=first + image % classes, image=first + image) for image in range(images)]
        (root / f"Inaturalist_{side}_set1.txt").write_text("".join(lines))
        first += classes


def resident() -> int:
    """Resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def owned() -> int:
    """Memory that this process shares with no other, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private"))


class Reading(Dataset):
    """Looks up paths, many at a time; gives what the worker owns after that."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        """Number of blocks of paths."""
        return len(self.paths) // BLOCK

    def __getitem__(self, block: int) -> tuple[int, int]:
        """The worker and the bytes it owns after reading a block."""
        assert all(len(self.paths[row]) > 40 for row in range(block * BLOCK, (block + 1) * BLOCK))
        worker = get_worker_info()
        assert worker is not None
        return worker.id, owned()


def worker_growth(paths: Sequence[str], workers: int = 2) -> dict[int, tuple[int, int]]:
    """Bytes that each worker owns after its first and after its last block of an epoch."""
    seen: dict[int, list[int]] = {worker: [] for worker in range(workers)}
    for worker, value in DataLoader(Reading(paths), batch_size=None, num_workers=workers):
        seen[worker].append(value)
    return {worker: (values[0], values[-1]) for worker, values in seen.items()}


def main() -> None:
    """Measure in a fresh process, which imports before it measures."""
    multiprocessing.set_start_method("fork")
    with tempfile.TemporaryDirectory() as root:
        write_lists(Path(root))
        subprocess.run([sys.executable, __file__, root], check=True)


def measure(root: str) -> None:
    """Print what reading and sharing the index costs."""
    before, start, busy = resident(), time.perf_counter(), time.process_time()
    splits = inat(root)
    wall, cpu, held = time.perf_counter() - start, time.process_time() - busy, resident() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    images = len(splits.train) + len(splits.test)
    print(f"index of {images:,} images: {wall:.2f} s ({cpu:.2f} s of one core)")
    print(f"resident memory: {held / MIB:.0f} MiB more, {peak / MIB:.0f} MiB more at its peak")
    print("wanted: below 2 s and 300 MB (286 MiB)")
    for kind, paths in {"packed": splits.train.paths, "list of str": list(splits.train.paths)}.items():
        for worker, (first, last) in worker_growth(paths).items():
            print(f"worker {worker}, {len(paths):,} paths as {kind}: owns {first / MIB:.1f} -> {last / MIB:.1f} MiB")


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
