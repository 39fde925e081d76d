"""Pinned archives of npm and Debian, fetched by their own clients and read without being unpacked.

The clients know what this project should not: which mirror, proxy and credentials a machine uses.
"""

import fcntl
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Literal

from tcm_bench.files import file_sha256

TIMEOUT_S = 900.0
SUFFIXES = {"npm": ".tgz", "apt": ".deb"}
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
            delivered = _deliver(package, Path(workplace), archive, timeout_s)
            _check(delivered, package, "the registry's copy was altered, or the pin is wrong")
            delivered.replace(archive)
    return archive


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; the lock leaves no file and ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _deliver(package: Package, workplace: Path, archive: Path, timeout_s: float) -> Path:
    """What the client put into an empty folder."""
    client = package.command[0]
    remedy = f"or put the archive by hand at {archive}"
    try:
        subprocess.run(
            package.command, cwd=workplace, check=True, timeout=timeout_s, capture_output=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise ValueError(f"the {package} needs {client}, which is not installed: install it, {remedy}") from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"{client} did not deliver the {package} in {timeout_s:.0f} s: try again, {remedy}") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).decode(errors="replace").strip().splitlines()
        said = said or [f"exit status {error.returncode}"]
        reason = said[0 if package.manager == "npm" else -1].strip()  # where each of them says it
        raise ValueError(
            f"{client} did not deliver the {package} ({reason}): mend its access to its registry, {remedy}"
        ) from None
    files = sorted(workplace.iterdir())
    if len(files) != 1:
        raise ValueError(f"{client} delivered {len(files)} files for the {package} in place of one archive; {remedy}")
    return files[0]


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
