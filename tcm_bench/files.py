"""Files: written whole or not at all, and told apart by the hash of what they hold."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a power cut, sees the old content or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path`, in a folder that is made if need be, that takes its place once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # safetensors makes files that only their owner may read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(file: Path) -> str:
    """Hash of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listing_sha256(files: Iterable[tuple[str, str]]) -> str:
    """One hash for several files, in hex, from pairs of a name and the hash of what it holds."""
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()
