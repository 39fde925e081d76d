"""Locks between processes; threads stand for them here."""

import shutil
import threading

import pytest

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
        shutil.rmtree(file.parent)
    thread.join(10)
    assert held == [True]


def test_only_a_full_disk_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"the disk of {tmp_path} is full"), naming_full_disk(tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(FileNotFoundError), naming_full_disk(tmp_path):
        (tmp_path / "gone").read_text()
