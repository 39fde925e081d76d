"""From archives, or links to them, to a dataset that can be read: whole or not at all.

Everything is put together in a folder `ROOT/.preparing/from-*/tree/` and moved to `ROOT` when it has been read and
found right; the file `prepared.json` moves last and says that all is done. A process that is killed leaves
`.preparing/`, and the next one goes on from there: with the bytes that were downloaded, with the files that were
unpacked from the same sources.
"""

import filecmp
import hashlib
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ValidationError
from rich.filesize import decimal

from tcm_bench.data.table import ImageFiles, Splits
from tcm_bench.files import locked, naming_full_disk, write_atomic
from tcm_bench.prepare.catalog import Dataset
from tcm_bench.prepare.download import download, hashes
from tcm_bench.prepare.unpack import Unpacker, archives_in, kind_of

PREPARED = "prepared.json"
STAGING = ".preparing"

Say = Callable[[str], None]


class PreparedFrom(BaseModel):
    """A file or folder that a dataset was prepared from; hashes of a file, a folder has none.

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
    sources: list[PreparedFrom]
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
    if (finished := read_prepared(root)) and not (root / STAGING).exists():  # nothing is written: it may be read-only
        return _nothing_to_do(finished, dataset, root, say)
    try:
        with naming_full_disk(root), _alone(root / STAGING, say):
            if finished := read_prepared(root):  # by the process that this one waited for, or one killed at its end
                return _nothing_to_do(finished, dataset, root, say)
            tree = _put_together(dataset, root, sources, say)
            # From here on a repetition only has to move what has not been moved.
            for entry in sorted(tree.iterdir(), key=lambda entry: entry.name == PREPARED):
                entry.replace(root / entry.name)
            prepared = Prepared.model_validate_json((root / PREPARED).read_text(encoding="utf-8"))
            _report(prepared, dataset, say)
            return prepared
    except ValueError:
        if not existed:
            with suppress(OSError):  # a download may have left its part
                root.rmdir()
        raise


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
    with locked(staging / "lock", lambda: say(f"another process prepares {staging.parent}: waiting for it")):
        try:
            yield
        finally:
            with suppress(OSError):  # bytes of a download are kept
                (staging / "downloads").rmdir()
            if (staging.parent / PREPARED).exists() or not {path.name for path in staging.iterdir()} - {"lock"}:
                shutil.rmtree(staging, ignore_errors=True)


def _put_together(dataset: Dataset, root: Path, sources: list[Path], say: Say) -> Path:
    """The folder that holds all that is to be moved to `root`, a record of it included: now, or from a process before.

    Raises:
        ValueError: As :func:`prepare`; nothing is left then but what was downloaded.
    """
    staging = root / STAGING
    for ready in staging.glob(f"from-*/tree/{PREPARED}"):
        return ready.parent
    tree = _tree(staging, sources)
    try:
        if prepared := _adopted(dataset, root, say):
            shutil.rmtree(tree)  # what an earlier process had unpacked
            tree.mkdir()
        else:
            used = _build(dataset, tree) if dataset.build else _collect(dataset, root, tree, sources, say)
            prepared = _inspected(dataset, tree, used, say)
            _refuse_conflicts(tree, root)
    except ValueError as error:
        shutil.rmtree(tree.parent)
        raise ValueError(str(error).replace(str(tree), str(root))) from error
    write_atomic(tree / PREPARED, prepared.model_dump_json(indent=2) + "\n")
    return tree


def _tree(staging: Path, sources: list[Path]) -> Path:
    """Where files are put together: what was unpacked earlier serves again only if it is from the same sources."""
    stats = [(path, path.stat()) for path in _files(sources)]
    key = repr([(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats])
    place = staging / f"from-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:16]}"
    for other in staging.glob("from-*"):
        if other != place:
            shutil.rmtree(other)
    tree = place / "tree"  # deeper than readers look for a dataset: in `root` there is none yet
    tree.mkdir(parents=True, exist_ok=True)
    return tree


def _adopted(dataset: Dataset, root: Path, say: Say) -> Prepared | None:
    """Take a dataset that someone has unpacked in `root` as it is, if all its images are there.

    Raises:
        ValueError: If some are there, and some are not.
    """
    with suppress(ValueError, OSError):
        splits = dataset.splits(root, subset=True)
        listed = _listed(splits)
        missing = [path for path in listed if not Path(path).exists()]
        if not missing:
            say(f"{root} holds {dataset.title} already")
            return _prepared(dataset, splits, [PreparedFrom(name=root.name)], 0)
        if len(missing) == len(listed):  # only the lists are there, beside the archives perhaps
            return None
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and any(fnmatchcase(entry.name, pattern) for pattern in dataset.keep):
            raise ValueError(f"{entry} is there already but the dataset is not complete: move it away and repeat")
    return None


def _files(sources: list[Path]) -> list[Path]:
    """The sources and the archives that lie in those of them that are folders."""
    paths = [path for source in sources for path in [source, *(archives_in(source) if source.is_dir() else [])]]
    return list(dict.fromkeys(path.resolve() for path in paths))


def _build(dataset: Dataset, tree: Path) -> list[PreparedFrom]:
    """A dataset that code of ours puts together, afresh but for what was downloaded."""
    assert dataset.build is not None
    shutil.rmtree(tree)
    for folder in (tree, downloads := tree.parents[1] / "downloads"):
        folder.mkdir(exist_ok=True)
    dataset.build(tree, downloads)
    return []


def _collect(dataset: Dataset, root: Path, tree: Path, sources: list[Path], say: Say) -> list[PreparedFrom]:
    """Unpack the sources, or the published archives, into `tree`."""
    files = _files(sources)
    _refuse_small_disk(root, sum(path.stat().st_size for path in files if path.is_file()))

    def unpacker(wanted: Container[str] | None = None) -> Unpacker:
        def place(name: str) -> str | None:
            path = _place(dataset, name)
            return path if wanted is None or path in wanted else None

        return Unpacker(tree, place, dataset.max_bytes, say)

    listed = set()
    images = unpacker()
    if dataset.lists:
        # The smallest first: the lists are a few MB and the images 120 GB, which are then read only once.
        lists = unpacker(dataset.lists)
        for path in sorted(files, key=lambda path: path.stat().st_size if path.is_file() else 0):
            if not lists.placed.issuperset(dataset.lists) and lists.add(path):
                listed.add(path)
        if absent := [name for name in dataset.lists if name not in lists.placed]:
            raise ValueError(f"{' and '.join(absent)} must be given to prepare {dataset.title}\n{dataset.manual}")
        prefix = len(f"{tree}/")
        images = unpacker({path[prefix:] for path in _listed(dataset.splits(tree, subset=True))})
    used = [_used(dataset, path, say) for path in files]
    found = {path for path in files if images.add(path)}
    for source in sources:
        if not (found | listed).intersection(_files([source])):
            kind = "" if kind_of(source) != "file" else ", and is neither a tar nor a zip archive"
            raise ValueError(f"{source} holds nothing of {dataset.title}{kind}")
    if not found:
        for path in _downloaded(dataset, root, say):
            used.append(_used(dataset, path, say))
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


def _place(dataset: Dataset, name: str) -> str | None:
    """Where a member of an archive goes: from the last part of its path on that is known, the folders above dropped."""
    parts = name.split("/")
    for start in range(len(parts) - 1, -1, -1):
        for pattern, renamed in dataset.keep.items():
            if fnmatchcase(parts[start], pattern):
                return "/".join([renamed or parts[start], *parts[start + 1 :]])
    return None


def _used(dataset: Dataset, path: Path, say: Say) -> PreparedFrom:
    """The record of a source; says whether it is a published file."""
    if path.is_dir():
        return PreparedFrom(name=path.name)
    md5, sha256 = hashes(path, say)
    known = {archive.md5: archive.file for archive in dataset.archives if archive.md5}
    if md5 in known:
        say(f"{path.name} is the published {known[md5]} (md5 {md5})")
    elif known:
        say(
            f"{path.name} is none of the files whose checksum is published (its md5: {md5}); "
            f"`tcm-bench data verify {dataset.name}` judges what is in it"
        )
    return PreparedFrom(name=path.name, md5=md5, sha256=sha256, published=known.get(md5))


def _inspected(dataset: Dataset, tree: Path, used: list[PreparedFrom], say: Say) -> Prepared:
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


def _prepared(dataset: Dataset, splits: Splits, used: list[PreparedFrom], missing: int) -> Prepared:
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
        raise ValueError(f"about {decimal(needed)} are needed in {root}, where {decimal(free)} are free")


def _report(prepared: Prepared, dataset: Dataset, say: Say) -> None:
    """Say what is there, and how it compares with the whole."""
    for side, (classes, images) in prepared.counts.items():
        whole = tuple(dataset.counts[side])
        short = "" if (classes, images) == whole else f"; the whole has {whole[0]:,} and {whole[1]:,}"
        say(f"{side}: {classes:,} classes, {images:,} images{short}")
    if any(prepared.counts[side] != tuple(dataset.counts[side]) for side in prepared.counts):
        say(f"this is a part of {dataset.title}: train on it with data.subset=true, and do not report it as the whole")
