"""Processes as torchrun starts them, but forked, so that one import of the libraries serves them all."""

import os
import socket
import sys
from collections.abc import Callable


def forked(world: int, work: Callable[[int], object]) -> list[int]:
    """Start `world` processes on a port of their own; each calls `work` with its rank.

    They end with 0, also when stopped by Ctrl-C, or 1 if the work fails. Returns their numbers, to wait for.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        if child := os.fork():
            children.append(child)
            continue
        places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in places.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", TORCHELASTIC_RUN_ID="test", LOCAL_WORLD_SIZE=str(world))
        try:
            work(rank)
        except KeyboardInterrupt:
            os._exit(0)
        except SystemExit as end:
            os._exit(end.code)
        except BaseException:  # noqa: BLE001
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return children
