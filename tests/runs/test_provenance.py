"""What code a name stands for, without running it."""

import sys

import pytest

from tcm_bench.runs.provenance import source_sha256


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder that Python finds modules in; they must never be run."""
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("own_loss", "own_pairs", "unrelated"):
        (tmp_path / f"{module}.py").write_text("raise RuntimeError('run')\n")
    package = tmp_path / "own_package" / "inner"
    package.mkdir(parents=True)
    (package / "deep.py").write_text("x = 1\n")
    return tmp_path


def fresh(module, known=frozenset()):
    """As another process would find it."""
    source_sha256.cache_clear()
    return source_sha256(module, known)


def test_an_edit_changes_the_hash_and_nothing_is_imported(home):
    before = fresh("own_loss")
    assert fresh("own_loss.Loss") == before
    (home / "own_loss.py").write_text("raise RuntimeError('edited')\n")
    assert fresh("own_loss") != before
    assert "own_loss" not in sys.modules


def test_every_file_of_a_package_counts_even_without_init(home):
    before = fresh("own_package")
    (home / "own_package" / "inner" / "deep.py").write_text("x = 2\n")
    assert fresh("own_package") != before


def test_what_it_imports_from_beside_it_counts_and_what_lies_there_otherwise_does_not(home):
    (home / "own_loss.py").write_text("import os\nimport torch\ndef f():\n    from own_pairs import g\n")
    before = fresh("own_loss")
    (home / "unrelated.py").write_text("x = 2\n")
    assert fresh("own_loss") == before
    (home / "own_pairs.py").write_text("import own_loss\nx = 2\n")  # in a circle
    after = fresh("own_loss")
    assert after != before
    assert fresh("own_loss", frozenset({"own_pairs"})) not in (before, after)


def test_the_hash_is_that_of_the_content_wherever_it_lies(home, tmp_path_factory, monkeypatch):
    here = fresh("own_loss")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "own_loss.py").write_bytes((home / "own_loss.py").read_bytes())
    (home / "own_loss.py").unlink()
    monkeypatch.syspath_prepend(elsewhere)
    assert fresh("own_loss") == here


def test_installed_packages_count_alone_and_what_has_no_source_has_no_hash():
    assert fresh("filelock") not in (None, fresh("rich"))
    assert fresh("no_such_module") is None
    assert fresh("sys") is None


def test_a_file_that_is_no_python_is_hashed_as_it_is(home):
    (home / "own_loss.py").write_bytes(b"def f(:\n")
    assert fresh("own_loss") is not None
