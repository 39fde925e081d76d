"""Locks between processes; threads stand for them here."""

import shutil
import threading

import pytest
from filelock import FileLock

from tcm_bench.files import locked, naming_full_disk


def test_who_waits_gets_the_lock_even_if_its_folder_was_removed(tmp_path):
    file, waiting, held = tmp_path / "staging" / "lock", threading.Event(), []

    def second():
        with locked(file, waiting.set):
            held.append(file.exists())

    thread = threading.Thread(target=second)
    with locked(file, lambda: pytest.fail("nobody else is there yet")):
        thread.start()
        assert waiting.wait(10)
        assert not held
        shutil.rmtree(file.parent, ignore_errors=True)  # the other one may make its file in the midst of this
    thread.join(10)
    assert held == [True]


def test_a_folder_removed_while_it_is_made_for_a_lock_is_made_again(tmp_path, monkeypatch):
    acquire, removed = FileLock.acquire, [FileExistsError(17, "File exists"), FileNotFoundError(2, "No such file")]

    def meddled(lock, **given):
        if removed:
            raise removed.pop()
        return acquire(lock, **given)

    monkeypatch.setattr(FileLock, "acquire", meddled)
    with locked(tmp_path / "staging" / "lock", lambda: pytest.fail("nobody else is there")):
        assert (tmp_path / "staging" / "lock").exists()
    assert not removed


def test_no_lock_is_waited_for_where_a_file_has_the_name_of_its_folder(tmp_path):
    (tmp_path / "staging").touch()
    with pytest.raises(FileExistsError), locked(tmp_path / "staging" / "lock", lambda: None):
        pass


def test_only_a_full_disk_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"the disk of {tmp_path} is full"), naming_full_disk(tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError), naming_full_disk(tmp_path):
        (tmp_path / "gone").read_text()
