"""What large networks leave behind, given back: tests fork a lot, and a fork of gigabytes takes its time."""

import ctypes
import gc


def hand_back() -> None:
    """Free what lies in circles, and return free memory to the system where its library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim:
        trim(0)
