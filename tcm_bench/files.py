"""Files: written whole or not at all, locked, and told apart by the hash of what they hold."""

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a power cut, sees the old content or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path`, in a folder that is made if need be, that takes its place once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # such a file may be read by its owner only
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(file: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that the system releases even if the process is killed.

    Whoever holds it may remove the file with its folder: then those who wait make it anew.

    Args:
        file: Made, with its folder, if missing; left there.
        on_wait: Called once if another process holds the lock.
    """
    lock, timeout_s = FileLock(file), 0
    while not lock.is_locked:
        try:
            lock.acquire(timeout=timeout_s)  # makes the folder
        except Timeout:
            on_wait()
            timeout_s = -1  # as long as it takes
        except FileNotFoundError:  # the folder has just been removed
            continue
        except FileExistsError:  # the same, between two steps of making it, unless something else has its name
            if os.path.lexists(file.parent) and not file.parent.is_dir():
                raise
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turn the system's refusal to write more into a ValueError that says where."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(f"the disk of {folder} is full: free some space and repeat, what is done is kept") from error


def file_sha256(file: Path) -> str:
    """Hash of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listing_sha256(files: Iterable[tuple[str, str]]) -> str:
    """One hash for several files, in hex, from pairs of a name and the hash of what it holds."""
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()
