"""Fetch pinned package archives with the package managers' own clients."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from recipe import Package

COMMANDS = {
    "npm": lambda package: ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
    "apt": lambda package: ["apt-get", "download", "--quiet=2", f"{package.name}={package.version}"],
}


def read_member(tar: tarfile.TarFile, name: str) -> bytes:
    """The content of one file of an opened archive."""
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is not a file of the archive")
    return file.read()


def fetch(package: Package, downloads: Path) -> Path:
    """The package's archive below ``downloads``; fetched only if it is not there yet.

    Raises:
        ValueError: If the archive is not the pinned one.
    """
    archive = downloads / f"{package.name.strip('@').replace('/', '-')}-{package.version.replace(':', '-')}"
    if not archive.exists():
        downloads.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=downloads) as folder:
            subprocess.run(COMMANDS[package.manager](package), cwd=folder, check=True)
            (delivered,) = Path(folder).iterdir()
            shutil.move(delivered, archive)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise ValueError(
            f"{archive} has sha256 {found}, but {package.name} {package.version} is pinned to "
            f"{package.sha256}; delete the file and fetch it again"
        )
    return archive
