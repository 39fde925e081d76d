import multiprocessing
import os
import sys
import threading

import pytest
import torch
from torch.utils.data import Dataset

from tcm_bench.data.loader import Loader


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
