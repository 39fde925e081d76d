"""Files of a dataset out of whatever holds them: a tar or zip archive, a folder, or a single file.

What is taken from a source is decided by the caller, name by name; nothing else is written. So a name can place a file
nowhere but below the target, and what is refused here (names that lead out, links, devices, bombs) is refused because
its sender is not to be trusted with the rest.
"""

import bz2
import filecmp
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple

from rich.filesize import decimal

from tcm_bench.progress import Tell, progress

CHUNK = 2**20
COMPRESSION: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")  # in a folder, these are not looked at for being archives
MAX_MEMBERS = 1_000_000  # files in all sources, wanted or not
MAX_RATIO = 200  # bytes from one of an archive: images give about 1, lists up to 20, zeros 1,000 and more
FREE_OF_RATIO = 64 * 2**20
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError)


class Member(NamedTuple):
    """A file in a source.

    Attributes:
        name: With forward slashes, checked to lead nowhere above.
        size: As stated.
        open: Its bytes; to be called before the next member is asked for. None: it is a link.
        twin: Of a hard link, the name of the earlier member whose bytes these are.
    """

    name: str
    size: int = 0
    open: Callable[[], Any] | None = None
    twin: str | None = None


class Unpacker:
    """Collects files from sources in one folder.

    A file that is there already with its full size is left alone: it is from an earlier process that was killed, files
    are moved to their names when they are whole.

    Args:
        tree: The folder, made if missing. Beside it lies, for a while, the file that is being written.
        place: Where a member goes, relative to `tree`; None: it is not wanted.
        max_bytes: Of all wanted files together, and of each tar archive when decompressed; more is refused.
        say: Takes lines about what is going on.
    """

    def __init__(
        self, tree: Path, place: Callable[[str], str | None], max_bytes: int, say: Callable[[str], None]
    ) -> None:
        self.tree, self.place, self.max_bytes, self.say = tree, place, max_bytes, say
        self._placed: dict[str, str] = {}  # by the name as file systems see it that ignore case and trailing dots
        self._members = self._bytes = 0

    @property
    def placed(self) -> set[str]:
        """Names of the files that have been taken, relative to `tree`."""
        return set(self._placed.values())

    def add(self, source: Path) -> int:
        """Take what is wanted from one source.

        Returns:
            How many files were wanted.

        Raises:
            ValueError: If the source is damaged, may not be trusted or contradicts an earlier one.
        """
        wanted, limit = 0, self.max_bytes
        if not source.is_dir():  # by what it weighs and not by what it says
            limit = min(limit, FREE_OF_RATIO + MAX_RATIO * source.stat().st_size)
        try:
            with progress(f"unpacking {source.name}", self.say, in_bytes=True) as tell:
                for member in MEMBERS[kind_of(source)](source, limit, tell):
                    self._members += 1
                    if self._members > MAX_MEMBERS:
                        raise ValueError(f"{source} holds more than {MAX_MEMBERS} files: it is another dataset")
                    if not is_junk(member.name) and (place := self.place(member.name)):
                        limit -= self._write(member, place, source, limit)
                        wanted += 1
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            name = Path(str(error.filename)).name
            raise ValueError(f"{source} holds {name} as a file and as a folder") from error
        except (*DAMAGED, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the system's; one without a number is a decompressor's
            raise ValueError(f"{source} is damaged or cut short ({_reason(error)}): fetch it again") from error
        return wanted

    def _write(self, member: Member, place: str, source: Path, limit: int) -> int:
        """Put a file in its place, unless it is there from an earlier process; returns its size."""
        target, key = self.tree / place, _portable(place)
        if (earlier := self._placed.get(key)) and earlier != place:
            raise ValueError(f"{source} holds {earlier} and {place}: on many file systems they are one file")
        written = 0
        if earlier or member.twin or not (target.is_file() and target.stat().st_size == member.size):
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.tree.parent / "unfinished"
            with self._stream(member, source) as stream, unfinished.open("wb") as file:
                while chunk := stream.read(CHUNK):
                    written += len(chunk)
                    if written > limit:
                        raise _too_much(source, limit)
                    file.write(chunk)
            if earlier and not filecmp.cmp(unfinished, target, shallow=False):
                raise ValueError(f"{source} holds another {place} than came before: give one copy of the dataset")
            unfinished.replace(target)
        self._placed[key] = place
        self._bytes += target.stat().st_size
        if self._bytes > self.max_bytes:
            raise _too_much(source, self.max_bytes)
        return written

    def _stream(self, member: Member, source: Path) -> Any:
        if member.open:
            try:
                return member.open()
            except (NotImplementedError, RuntimeError) as error:  # in a zip: an unknown method, a password
                raise ValueError(f"{member.name} in {source} cannot be read: {_reason(error)}") from error
        if not member.twin:
            raise ValueError(f"{member.name} in {source} is a link: give the dataset with the files themselves")
        twin = self.place(member.twin)
        if twin is None or _portable(twin) not in self._placed:
            raise ValueError(f"{member.name} in {source} is a link to {member.twin}, which is not part of the dataset")
        return (self.tree / twin).open("rb")


def kind_of(source: Path) -> str:
    """`folder`, `tar` (compressed or not), `zip` or `file`, by content."""
    if source.is_dir():
        return "folder"
    with source.open("rb") as file:
        start = file.read(8)
    if start.startswith(ZIP):
        return "zip"
    return "tar" if start.startswith(tuple(COMPRESSION)) or (start and tarfile.is_tarfile(source)) else "file"


def archives_in(folder: Path) -> list[Path]:
    """The archives that lie in a folder, at any depth."""
    files = (path for path, _ in _walk(folder) if path.suffix.lower() not in IMAGE_SUFFIXES and not path.is_symlink())
    return [path for path in files if kind_of(path) in ("tar", "zip")]


def tar_members(source: Path, limit: int, tell: Tell) -> Iterator[Member]:
    """Files of a tar archive, in one pass from its first byte to its last."""
    size = source.stat().st_size
    with source.open("rb") as raw, _decompressed(raw) as inner:
        stream = _Bounded(inner, source, limit)
        # Not "r|*", by which tarfile would decompress itself: without a look at checksums or at how much comes out.
        with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
            while (info := tar.next()) is not None:
                tar.members.clear()  # half a million of them would stay in memory
                tell(raw.tell(), size)
                name = safe_name(info.name, source)
                if info.isreg():
                    yield Member(name, info.size, partial(tar.extractfile, info))
                elif not info.isdir():
                    try:
                        tarfile.data_filter(info, str(source.parent))  # refuses links that lead out, and devices
                    except tarfile.FilterError as error:
                        raise ValueError(f"{source} is not to be trusted: {error}") from error
                    yield Member(name, twin=safe_name(info.linkname, source) if info.islnk() else None)
        while stream.read(CHUNK):  # to the very end, where the checksum of the compression stands
            pass
        # tarfile takes a broken header, and the end of the file, for the end of the archive.
        if stream.last_nonzero > tar.offset:
            raise tarfile.ReadError("it goes on after its end")
        if stream.position < tar.offset + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("its end is missing")


def zip_members(source: Path, limit: int, tell: Tell) -> Iterator[Member]:
    """Files of a zip archive."""
    done, size = 0, source.stat().st_size
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            name = safe_name(info.filename.replace("\\", "/"), source)  # as packers on Windows write it
            if stat.S_ISLNK(info.external_attr >> 16):
                yield Member(name)
            elif not info.is_dir():
                yield Member(name, info.file_size, partial(archive.open, info))
            done += info.compress_size
            tell(done, size)


def plain_members(source: Path, limit: int, tell: Tell) -> Iterator[Member]:
    """A file that is no archive, or all below a folder. A link is followed only if it stays below the folder."""
    top = source.resolve()
    for path, name in _walk(source) if source.is_dir() else [(source, source.name)]:
        if path != source and path.is_symlink() and (path.is_dir() or not path.resolve().is_relative_to(top)):
            yield Member(name)
        else:
            yield Member(name, path.stat().st_size, partial(path.open, "rb"))


MEMBERS = {"folder": plain_members, "file": plain_members, "tar": tar_members, "zip": zip_members}


def safe_name(name: str, source: Path) -> str:
    """A member's name without empty parts.

    Raises:
        ValueError: If it leads out of the folder it is unpacked to.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive or "\0" in name:
        raise ValueError(f"{source} is not to be trusted: it holds the path {name!r}, which leads out of its folder")
    return str(path)


def is_junk(name: str) -> bool:
    """Whether a name is of what systems leave behind: hidden files and folders (`._*`, `.DS_Store`), `__MACOSX`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files below a folder and links to folders, each with its name from there; hidden ones are passed over."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_junk(name))
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in sorted([*files, *links]):
            path = Path(parent, name)
            if not is_junk(name) and (path.is_file() or name in links):
                yield path, path.relative_to(folder).as_posix()


def _portable(name: str) -> str:
    """A name as file systems see it that ignore case, and blanks and dots at the end."""
    return "/".join(part.rstrip(". ").casefold() for part in name.split("/"))


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _too_much(source: Path, limit: int) -> ValueError:
    return ValueError(f"{source} unpacks to more than the {decimal(limit)} that can be right: it is not to be trusted")


def _decompressed(raw: Any) -> Any:
    start = raw.peek(8)
    known = (opened(raw, "rb") for magic, opened in COMPRESSION.items() if start.startswith(magic))
    return next(known, nullcontext(raw))


class _Bounded:
    """A stream that ends with an error where too much comes out of it.

    Attributes:
        position: Bytes read.
        last_nonzero: Where the last byte other than 0 ended.
    """

    def __init__(self, inner: IO[bytes], source: Path, limit: int) -> None:
        self._inner, self._source, self._limit = inner, source, limit
        self.position = self.last_nonzero = 0

    def read(self, size: int) -> bytes:
        chunk = self._inner.read(size)
        if content := chunk.rstrip(b"\0"):
            self.last_nonzero = self.position + len(content)
        self.position += len(chunk)
        if self.position > self._limit:
            raise _too_much(self._source, self._limit)
        return chunk
