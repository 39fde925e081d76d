"""From archives, or links to them, to a dataset that can be read: whole or not at all.

Everything is put together in `ROOT/.preparing/` and moved to `ROOT` when it has been read and found right; the file
`prepared.json` comes last and says that all is done. A process that is killed leaves `.preparing/`, and the next one
goes on from there: with the bytes that were downloaded, with the files that were unpacked.
"""

import errno
import filecmp
import json
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from tcm_bench.data.table import ImageFiles, Splits
from tcm_bench.files import write_atomic
from tcm_bench.prepare.catalog import Dataset
from tcm_bench.prepare.download import download, hashes
from tcm_bench.prepare.progress import gigabytes
from tcm_bench.prepare.unpack import Bounds, Unpacker, archives_in, kind_of

PREPARED = "prepared.json"
STAGING = ".preparing"

Say = Callable[[str], None]


class Source(BaseModel):
    """What a dataset was prepared from; hashes of a file, a folder has none.

    Attributes:
        name: Of the file or folder.
        published: The official name of the file that has this MD5; None: it is not one of the published files.
    """

    name: str
    md5: str | None = None
    sha256: str | None = None
    published: str | None = None


class Prepared(BaseModel):
    """The content of `prepared.json`.

    Attributes:
        counts: Classes and images of `train` and `test`.
        missing: Images that the lists name and no source held.
        fingerprint: Hash of the file list, that of :class:`~tcm_bench.data.table.Splits`.
    """

    dataset: str
    sources: list[Source]
    counts: dict[str, tuple[int, int]]
    missing: int
    fingerprint: str
    tcm_bench: str


def prepare(dataset: Dataset, root: Path, sources: Sequence[Path] | None = (), *, say: Say) -> Prepared:
    """Put a dataset into `root`; what is finished is left as it is.

    Args:
        dataset: Which one.
        root: Made if missing.
        sources: Archives, single files, or folders of either or of the unpacked dataset; without any, what has a
            link is downloaded.
        say: Takes lines about what is going on.

    Returns:
        What is there now.

    Raises:
        ValueError: If a source is damaged, untrustworthy or of something else, if the result cannot be read, or if
            something has to be fetched by hand: then the steps follow the sentence. `root` is as it was before.
    """
    root, sources = Path(root), [Path(source) for source in sources or ()]
    for source in sources:
        if not source.exists():
            raise ValueError(f"{source} does not exist: --from takes archives, or folders that hold them")
    existed = root.is_dir()
    if (finished := read_prepared(root)) and not (root / STAGING).exists():
        return _nothing_to_do(finished, dataset, root, say)
    try:
        with _alone(root / STAGING, say):
            return _prepare(dataset, root, sources, say)
    except ValueError:
        if not existed:
            with suppress(OSError):  # a download may have left its part
                root.rmdir()
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"the disk of {root} is full: free some space and repeat, what is done is kept") from error


def read_prepared(root: Path) -> Prepared | None:
    """What `prepare` left in a folder; None if it has not finished there.

    Raises:
        ValueError: If the file is not one of this project.
    """
    try:
        return Prepared.model_validate_json((root / PREPARED).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise ValueError(f"{root / PREPARED} is damaged or of another version: delete the folder and repeat") from error


def _prepare(dataset: Dataset, root: Path, sources: list[Path], say: Say) -> Prepared:
    work, ready = root / STAGING / "work", root / STAGING / "ready.json"
    tree = work / "tree"
    if finished := read_prepared(root):  # by the process that this one waited for, or that was killed while tidying up
        return _nothing_to_do(finished, dataset, root, say)
    if not ready.exists():
        try:
            if not (prepared := _adopted(dataset, root, say)):
                _same_sources_or_anew(work, sources)
                used = _build(dataset, tree) if dataset.build else _collect(dataset, root, tree, sources, say)
                prepared = _inspected(dataset, tree, used, say)
                _refuse_conflicts(tree, root)
        except ValueError as error:
            shutil.rmtree(work, ignore_errors=True)
            raise ValueError(str(error).replace(str(tree), str(root))) from error
        write_atomic(ready, prepared.model_dump_json(indent=2) + "\n")
    # From here on a repetition only has to move what has not been moved.
    for entry in sorted(tree.iterdir()) if tree.exists() else ():
        entry.replace(root / entry.name)
    ready.replace(root / PREPARED)
    prepared = Prepared.model_validate_json((root / PREPARED).read_text(encoding="utf-8"))
    _report(prepared, dataset, say)
    return prepared


def _nothing_to_do(finished: Prepared, dataset: Dataset, root: Path, say: Say) -> Prepared:
    """Say so.

    Raises:
        ValueError: If it is another dataset that is there.
    """
    if finished.dataset != dataset.name:
        raise ValueError(f"{root} holds {finished.dataset}, prepared earlier: give another --root for {dataset.name}")
    say(f"{root} is prepared already; to prepare it anew, delete it")
    _report(finished, dataset, say)
    return finished


@contextmanager
def _alone(staging: Path, say: Say) -> Iterator[None]:
    """Hold the folder `.preparing` against other processes; when nothing in it is of use any more, it is removed."""
    file = staging / "lock"
    lock = FileLock(file)
    wait_s = 0
    while not (lock.is_locked and file.exists()):
        lock.release()  # of a file that another process has removed when it was done
        staging.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=wait_s)
        except Timeout:
            say(f"another process prepares {staging.parent}: waiting for it")
            wait_s = -1  # as long as it takes
        except FileNotFoundError:  # it has just removed the folder
            continue
    try:
        yield
    finally:
        with suppress(OSError):  # bytes of a download are kept
            (staging / "downloads").rmdir()
        if (staging.parent / PREPARED).exists() or not {path.name for path in staging.iterdir()} - {"lock"}:
            shutil.rmtree(staging, ignore_errors=True)  # a process that waits may put a lock there again, and remove it
        lock.release()


def _adopted(dataset: Dataset, root: Path, say: Say) -> Prepared | None:
    """Take a dataset that someone has unpacked in `root` as it is, if all its images are there.

    Raises:
        ValueError: If some are there, and some are not.
    """
    try:
        splits = dataset.splits(root, subset=True)
    except (ValueError, OSError):
        splits = None
    if splits is not None:
        listed = _listed(splits)
        missing = [path for path in listed if not Path(path).exists()]
        if not missing:
            say(f"{root} holds {dataset.title} already")
            return _prepared(dataset, splits, [Source(name=root.name)], 0)
        if len(missing) == len(listed):  # only the lists are there, beside the archives perhaps
            return None
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and any(fnmatchcase(entry.name, pattern) for pattern in dataset.keep):
            raise ValueError(f"{entry} is there already but the dataset is not complete: move it away and repeat")
    return None


def _same_sources_or_anew(work: Path, sources: list[Path]) -> None:
    """Go on with what an earlier process has unpacked only if it was unpacked from the same files."""
    stats = [(path, path.stat()) for path in _files(sources)]
    now = json.dumps([[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats])
    file = work / "sources.json"
    if not file.exists() or file.read_text(encoding="utf-8") != now:
        shutil.rmtree(work, ignore_errors=True)
    (work / "tree").mkdir(parents=True, exist_ok=True)
    write_atomic(file, now)


def _files(sources: list[Path]) -> list[Path]:
    """The sources and the archives that lie in those of them that are folders."""
    paths = [path for source in sources for path in [source, *_contained(source)]]
    return list(dict.fromkeys(path.resolve() for path in paths))


def _contained(source: Path) -> list[Path]:
    return archives_in(source) if source.is_dir() else []


def _build(dataset: Dataset, tree: Path) -> list[Source]:
    """A dataset that code of ours puts together, afresh but for what was downloaded."""
    assert dataset.build is not None
    shutil.rmtree(tree)
    for folder in (tree, downloads := tree.parents[1] / "downloads"):
        folder.mkdir(exist_ok=True)
    dataset.build(tree, downloads)
    return [Source(name=archive.file, published=archive.file) for archive in dataset.archives]


def _collect(dataset: Dataset, root: Path, tree: Path, sources: list[Path], say: Say) -> list[Source]:
    """Unpack the sources, or the published archives, into `tree`."""
    files = _files(sources)
    _refuse_small_disk(root, sum(path.stat().st_size for path in files if path.is_file()))
    bounds, place = Bounds(dataset.max_bytes), _places(dataset)
    taken = dict.fromkeys(files, 0)

    def unpacker(wanted: Container[str]) -> Unpacker:
        return Unpacker(tree, lambda name: path if (path := place(name)) in wanted else None, bounds, say)

    if dataset.lists:
        # The smallest first: the lists are a few MB and the images 120 GB, which are then read only once.
        lists = unpacker(dataset.lists)
        for path in sorted(files, key=lambda path: path.stat().st_size if path.is_file() else 0):
            if not lists.placed.issuperset(dataset.lists):
                taken[path] += lists.add(path)
        if absent := [name for name in dataset.lists if name not in lists.placed]:
            raise ValueError(f"{' and '.join(absent)} must be given to prepare {dataset.title}\n{dataset.manual}")
        prefix = len(f"{tree}/")
        images = unpacker({path[prefix:] for path in _listed(dataset.splits(tree, subset=True))})
    else:
        images = Unpacker(tree, place, bounds, say)
    used = [_source(dataset, path, say) for path in files]
    found = {path: images.add(path) for path in files}
    for source in sources:
        if not any(taken[path] + found[path] for path in _files([source])):
            kind = "" if kind_of(source) != "file" else ", and is neither a tar nor a zip archive"
            raise ValueError(f"{source} holds nothing of {dataset.title}{kind}")
    if not any(found.values()):
        for path in _downloaded(dataset, root, say):
            used.append(_source(dataset, path, say))
            images.add(path)
    return used


def _downloaded(dataset: Dataset, root: Path, say: Say) -> Iterator[Path]:
    """The published archives that have a link, one after the other.

    Raises:
        ValueError: If there is none, or no mirror gives one: with the steps by hand.
    """
    linked = [archive for archive in dataset.archives if archive.urls]
    steps = (
        f"{dataset.manual}\nThen: tcm-bench data prepare {dataset.name} --root {root} --from FILE [FILE ...]\n"
        f"Terms: {dataset.terms}"
    )
    if not linked:
        raise ValueError(f"{dataset.title} cannot be downloaded without your help\n{steps}")
    say(f"terms of {dataset.title}: {dataset.terms}")
    _refuse_small_disk(root, 2 * sum(archive.size or 0 for archive in linked))
    for archive in linked:
        file = root / STAGING / "downloads" / archive.file
        try:
            download(archive.urls, file, md5=archive.md5, size=archive.size, say=say)
        except ValueError as error:
            raise ValueError(f"{error}\n{steps}") from error
        yield file


def _places(dataset: Dataset) -> Callable[[str], str | None]:
    """Where a member of an archive goes: from the last part of its path on that is known, the folders above dropped."""

    def place(name: str) -> str | None:
        parts = name.split("/")
        for start in range(len(parts) - 1, -1, -1):
            for pattern, renamed in dataset.keep.items():
                if fnmatchcase(parts[start], pattern):
                    return "/".join([renamed or parts[start], *parts[start + 1 :]])
        return None

    return place


def _source(dataset: Dataset, path: Path, say: Say) -> Source:
    """The record of a source; says whether it is a published file."""
    if path.is_dir():
        return Source(name=path.name)
    md5, sha256 = hashes(path, say)
    published = {archive.md5: archive.file for archive in dataset.archives if archive.md5}.get(md5)
    if published:
        say(f"{path.name} is the published {published} (md5 {md5})")
    else:
        say(
            f"{path.name} is none of the files whose checksum is published (its md5: {md5}); "
            f"`tcm-bench data verify {dataset.name}` judges what is in it"
        )
    return Source(name=path.name, md5=md5, sha256=sha256, published=published)


def _inspected(dataset: Dataset, tree: Path, used: list[Source], say: Say) -> Prepared:
    """Read what was put together.

    Raises:
        ValueError: If it cannot be read, or a whole folder of listed images is missing.
    """
    splits = dataset.splits(tree, subset=True)
    listed = _listed(splits)
    missing = [path for path in listed if not Path(path).exists()]
    if missing:
        first = str(Path(missing[0]).relative_to(tree))
        if empty := {Path(path).parent for path in missing} - {Path(path).parent for path in {*listed} - {*missing}}:
            raise ValueError(
                f"no listed image of {min(empty).relative_to(tree)}/ is in what was given, {len(missing)} of "
                f"{len(listed)} are missing: give all archives of {dataset.title} at once"
            )
        say(f"warning: {len(missing)} of {len(listed)} listed images are missing, for example {first}")
    return _prepared(dataset, splits, used, len(missing))


def _prepared(dataset: Dataset, splits: Splits, used: list[Source], missing: int) -> Prepared:
    sides = {"train": splits.train, "test": splits.test}
    return Prepared(
        dataset=dataset.name,
        sources=used,
        counts={side: (table.num_classes, len(table)) for side, table in sides.items()},
        missing=missing,
        fingerprint=splits.fingerprint,
        tcm_bench=version("tcm-bench"),
    )


def _listed(splits: Splits) -> list[str]:
    """Paths of all images, if they are files."""
    return [path for table in (splits.train, splits.test) if isinstance(table, ImageFiles) for path in table.paths]


def _refuse_conflicts(tree: Path, root: Path) -> None:
    """A file that is there already may stay if it is the same: a list that was given from within `root`."""
    for entry in tree.iterdir():
        there = root / entry.name
        if there.exists() and not (there.is_file() and entry.is_file() and filecmp.cmp(entry, there, shallow=False)):
            raise ValueError(f"{there} is there already, and is not what would be put there: move it away and repeat")


def _refuse_small_disk(root: Path, needed: int) -> None:
    """Compare the space that is free with what will be written, less what an earlier process has written."""
    files = (path for path in (root / STAGING).rglob("*") if path.is_file())
    needed -= sum(path.stat().st_size for path in files)
    if needed > (free := shutil.disk_usage(root).free):
        raise ValueError(f"about {gigabytes(needed)} are needed in {root}, where {gigabytes(free)} are free")


def _report(prepared: Prepared, dataset: Dataset, say: Say) -> None:
    """Say what is there, and how it compares with the whole."""
    for side, (classes, images) in prepared.counts.items():
        whole = tuple(dataset.counts[side])
        short = "" if (classes, images) == whole else f"; the whole has {whole[0]:,} and {whole[1]:,}"
        say(f"{side}: {classes:,} classes, {images:,} images{short}")
    if any(prepared.counts[side] != tuple(dataset.counts[side]) for side in prepared.counts):
        say(f"this is a part of {dataset.title}: train on it with data.subset=true, and do not report it as the whole")
