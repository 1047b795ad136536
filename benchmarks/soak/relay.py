"""`tocsin serve` that tells, for each line on its standard input, what memory it has in use, and on SIGUSR1 logs where
each of its threads is.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import signal
import sys
import threading

from tocsin.cli.main import app


class Heap(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
                     "keepcost")
    ]  # fmt: skip


def answer() -> None:
    """Blocks that Python has of its own heap, bytes that it and libraries have of glibc's, and those that are free."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Heap
    for _ in sys.stdin:
        gc.collect()
        heap = mallinfo2()
        print(json.dumps([sys.getallocatedblocks(), heap.uordblks + heap.hblkhd, heap.fordblks]), flush=True)


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    threading.Thread(target=answer, daemon=True).start()
    app()
