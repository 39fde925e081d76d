import multiprocessing
import os
import sys
import threading

import pytest
import torch
from torch.utils.data import Dataset

from tcm_bench.data.loader import Loader
from tcm_bench.runs.build import ConfigurationError


class Threads(Dataset):
    """Says in which process an item was made, by how many threads of torch."""

    def __len__(self):
        return 6

    def __getitem__(self, item):
        return item, os.getpid(), torch.get_num_threads()


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_items_come_in_order_from_workers_of_one_thread(num_workers):
    rows, processes, threads = zip(*Loader(Threads(), batch_size=None, num_workers=num_workers), strict=True)
    assert rows == tuple(range(6))
    assert set(threads) == {1}
    assert len(set(processes)) == max(1, num_workers)
    assert (os.getpid() in processes) is (num_workers == 0)


@pytest.mark.filterwarnings("error")
def test_workers_start_without_a_warning_though_the_process_has_threads():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert len(list(Loader(Threads(), 3, num_workers=1))) == 2
    finally:
        stop.set()
        thread.join()


def test_workers_are_forked_on_linux_alone():
    loader = Loader(Threads(), num_workers=1)
    expected = "fork" if sys.platform == "linux" else multiprocessing.get_start_method()
    assert loader.multiprocessing_context.get_start_method() == expected


class Refusing(Dataset):
    """Cannot be read, for a reason that a library gave."""

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 2

    def __getitem__(self, item):
        try:
            raise OSError("Truncated File Read")
        except OSError as error:
            raise self.kind(f"{item}.jpg cannot be decoded (ValueError: cut short)") from error


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, ConfigurationError])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_says_the_same_from_a_worker_as_without_one(kind, num_workers):
    with pytest.raises(kind) as caught:
        list(Loader(Refusing(kind), batch_size=None, num_workers=num_workers))
    assert type(caught.value) is kind
    assert str(caught.value) == "0.jpg cannot be decoded (ValueError: cut short)"
