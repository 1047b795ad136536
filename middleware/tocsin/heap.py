"""Gives memory that is free back to the system, where the allocator is glibc's."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from typing import Any

LARGE_BLOCK = 2 << 20  # bytes: larger blocks go back once they are free,
FREE_AT_END = 16 << 20  # and more than this at the heap's end; less would be asked for again by the next message
TRIM_SECONDS = 60.0  # how often holes in the heap are given back
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def return_large_blocks() -> None:
    """Have the memory of large messages given back when they are freed. By default glibc raises its threshold after the
    first and keeps twice its size. Does nothing where the environment configures malloc (`MALLOC_...`) or another
    allocator is used.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_TRIM_THRESHOLD, FREE_AT_END)


async def return_holes() -> None:
    """Give back, every TRIM_SECONDS, whole pages that are free between what is in use. Else a process that is used
    unevenly keeps the most that it ever held, in pieces too small for what comes next. Ends when it is cancelled.
    """
    trim = _function("malloc_trim")
    while trim is not None:
        await asyncio.sleep(TRIM_SECONDS)
        await asyncio.to_thread(trim, 0)  # without the interpreter's lock; a few milliseconds for a hundred megabytes


def _function(name: str) -> Any:
    """A function of the C library, None where it has none of this name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
