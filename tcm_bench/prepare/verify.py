"""Whether a dataset on disk is what it should be: its counts, its list, every image, and no image on both sides."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tcm_bench.data.table import ImageArray, ImageFiles, Splits, Table
from tcm_bench.prepare.catalog import Dataset
from tcm_bench.prepare.picture import Unreadable, digest_of_pixels, pixel_digest, read_all
from tcm_bench.prepare.staging import PREPARED, Prepared, read_prepared

SIDES = ("train", "test")


class Fault(NamedTuple):
    """Something that is not as it should be.

    Attributes:
        path: The file or folder.
        reason: What is wrong with it and what to do.
        kind: What faults of the same sort have in common.
    """

    path: str
    reason: str
    kind: str


class Count(NamedTuple):
    """How much a side holds."""

    classes: int = 0
    images: int = 0


class Identity(NamedTuple):
    """Whether a copy is the benchmark, going by its counts and its list; damaged images are faults of their own.

    Attributes:
        verdict: "unknown" if the counts are right and there is no published list to compare with.
        reason: Why.
    """

    verdict: Literal["yes", "no", "unknown"]
    reason: str


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found.

    Attributes:
        train: Classes and images to learn from, as far as the lists could be read.
        test: The same of the other side.
        fingerprint: See :class:`~tcm_bench.data.table.Splits`; None if the lists cannot be read.
        faults: Empty if all is well.
        benchmark: Whether this is the benchmark; None: the dataset is none.
    """

    train: Count
    test: Count
    fingerprint: str | None
    faults: Sequence[Fault]
    benchmark: Identity | None = None

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def as_json(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {
            "ok": self.ok,
            "train": self.train._asdict(),
            "test": self.test._asdict(),
            "fingerprint": self.fingerprint,
            "benchmark": self.benchmark and self.benchmark._asdict(),
            "faults": [{"path": fault.path, "reason": fault.reason} for fault in self.faults],
        }


def verify(
    splits_of: Callable[..., Splits],
    root: Path,
    *,
    subset: bool = False,
    benchmark: Dataset | None = None,
    remedy: str | None = None,
    processes: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Look at everything that a dataset consists of.

    Args:
        splits_of: Reader of the dataset, called as ``splits_of(root, subset=...)``; its ValueError is a fault.
        root: Folder or file of the dataset.
        subset: Accept fewer classes and images than the dataset's, or others.
        benchmark: What the copy is compared with; None: nothing.
        remedy: What to do about a copy that is not as it should be; None: the images are the user's own.
        processes: How many read images; None: one a core.
        on_progress: Told how many images have been read, and of how many.

    Raises:
        ValueError: If the dataset does not consist of images.
    """
    cure = remedy or "put a good copy in its place, or take it out"
    faults: list[Fault] = []
    splits = _lists(splits_of, root, subset, remedy, faults)
    if splits is None:
        identity = Identity("no", "its lists cannot be read") if benchmark else None
        return Verification(Count(), Count(), None, faults, identity)
    identity = _identity(benchmark, splits) if benchmark else None
    if identity and identity.verdict == "no" and not subset and not faults:  # of the counts, else
        faults.append(Fault(str(root), f"is not the benchmark: {identity.reason}; {cure}", "is another list"))
    tables = {"train": splits.train, "test": splits.test}
    paths = {side: item_paths(table, root, side) for side, table in tables.items()}
    digests = _digests(tables, paths, cure, processes, on_progress, faults)
    prepared = _prepared(root, splits, cure, faults)
    faults += _listed_twice(tables, paths, cure)
    if prepared and all(source.published for source in prepared.sources):
        cure = "the published archives have it so: report it with the numbers"
    faults += _on_both_sides(digests, paths, cure)
    counts = {side: Count(table.num_classes, len(table)) for side, table in tables.items()}
    return Verification(counts["train"], counts["test"], splits.fingerprint, faults, identity)


def _lists(
    splits_of: Callable[..., Splits], root: Path, subset: bool, remedy: str | None, faults: list[Fault]
) -> Splits | None:
    """What the lists name, None if they cannot be read; what is wrong with them is added to the faults."""
    for accept_fewer in sorted({subset, True}):  # with wrong counts the images are still worth a look
        try:
            return splits_of(root, subset=accept_fewer)
        except (ValueError, OSError) as error:
            reason = "; ".join([" ".join(str(error).split()), *([remedy] if remedy else [])])
            fault = Fault(_place(root, error), reason, "the dataset is not what it should be")
            faults += [fault] * (fault not in faults)
    return None


def _digests(
    tables: dict[str, Table],
    paths: dict[str, Sequence[str]],
    cure: str,
    processes: int | None,
    on_progress: Callable[[int, int], None],
    faults: list[Fault],
) -> dict[str, list[bytes]]:
    """Digest of every item's pixels; empty for one that cannot be read, which is added to the faults."""
    digests: dict[str, list[bytes]] = {side: [] for side in SIDES}
    done, total = 0, sum(map(len, tables.values()))
    for side in SIDES:
        for path, found in zip(paths[side], _pixel_digests(tables[side], processes), strict=True):
            if isinstance(found, Unreadable):
                faults.append(Fault(path, f"{found}; {cure}", str(found).partition(" (")[0]))
            digests[side].append(b"" if isinstance(found, Unreadable) else found)
            done += 1
            on_progress(done, total)
    return digests


def _prepared(root: Path, splits: Splits, cure: str, faults: list[Fault]) -> Prepared | None:
    """What `tcm-bench data prepare` left there; a contradiction to it is added to the faults."""
    try:
        prepared = read_prepared(root)
    except (ValueError, OSError) as error:
        faults.append(Fault(str(root / PREPARED), str(error), "is damaged"))
        return None
    if prepared and prepared.fingerprint != splits.fingerprint:
        reason = f"states the list {prepared.fingerprint[:12]}, what lies here has {splits.fingerprint[:12]}; {cure}"
        faults.append(Fault(str(root / PREPARED), reason, "is another list than was prepared"))
    return prepared


def _identity(benchmark: Dataset, splits: Splits) -> Identity:
    """Compare counts, then the list with the published one of its layout."""
    found = {"train": splits.train, "test": splits.test}
    wrong = [
        f"{number:,} {side} {kind} where {expected:,} are expected"
        for side, table in found.items()
        for kind, number, expected in zip(
            Count._fields, (table.num_classes, len(table)), benchmark.counts[side], strict=True
        )
        if number != expected
    ]
    if wrong:
        return Identity("no", ", ".join(wrong))
    assert isinstance(splits.train, ImageFiles)
    layout = splits.train.paths.name(0).partition("/")[0]
    published = (benchmark.fingerprints or {}).get(layout)
    if published is None:
        return Identity("unknown", "its counts are the benchmark's, but of no list in this layout is the hash known")
    if published != splits.fingerprint:
        return Identity("no", f"its list has sha256 {splits.fingerprint[:12]}, the published one {published[:12]}")
    return Identity("yes", "its counts and its list are the published ones")


def item_paths(table: Table, root: Path, side: str) -> Sequence[str]:
    """Where each item lies: an absolute path, or ``ARCHIVE#CLASS/NUMBER`` in an archive of strips, counted from 0.

    Raises:
        ValueError: If the items are not images.
    """
    if isinstance(table, ImageFiles):
        return table.paths
    if isinstance(table, ImageArray):
        starts = np.searchsorted(table.labels, np.arange(table.num_classes))  # class lies after class
        archive = Path(root, f"{side}.zip")
        return [
            f"{archive}#{table.class_names[label]}/{index - starts[label]}"
            for index, label in enumerate(table.labels.tolist())
        ]
    raise ValueError(f"{root} holds vectors, not images")


def _pixel_digests(table: Table, processes: int | None) -> Iterator[bytes | Unreadable]:
    if isinstance(table, ImageFiles):
        return read_all(pixel_digest, table.paths, processes)
    assert isinstance(table, ImageArray)
    size = table.images.shape[2], table.images.shape[1]
    return (digest_of_pixels(size, image.tobytes()) for image in table.images)


def _listed_twice(tables: dict[str, Table], paths: dict[str, Sequence[str]], cure: str) -> list[Fault]:
    """Files that stand in the lists more than once, by whatever spelling."""
    first: dict[str, tuple[str, int]] = {}
    faults = []
    for side in SIDES:
        for index, path in enumerate(paths[side]):
            places = first.setdefault(os.path.normpath(path), (side, index)), (side, index)
            if places[0] != places[1]:
                here, there = (
                    f"in {side} as {tables[side].class_names[tables[side].labels[row]]!r}" for side, row in places
                )
                faults.append(Fault(path, f"is listed twice, {here} and {there}; {cure}", "is listed twice"))
    return faults


def _on_both_sides(digests: dict[str, list[bytes]], paths: dict[str, Sequence[str]], cure: str) -> list[Fault]:
    """Images to test on that are among those to learn from."""
    train = dict(zip(digests["train"], paths["train"], strict=True))
    faults = []
    for digest, here in zip(digests["test"], paths["test"], strict=True):
        there = train.get(digest, here) if digest else here
        if here != there:  # else it is listed twice
            reason = f"is in test and shows pixel for pixel what {there} in train shows; {cure}"
            faults.append(Fault(here, reason, "is on both sides"))
    return faults


def _place(root: Path, error: Exception) -> str:
    """The file or folder below `root` that an error speaks of."""
    if isinstance(error, OSError) and error.filename:
        return str(error.filename)
    named = re.findall(rf"{re.escape(str(root))}(?:/[^\s:;,]*)?", str(error))
    return max((path.rstrip(".") for path in named), key=len, default=str(root))
