"""A page of the docs, typed: its files are written, its commands go to one shell, and their output must be as shown.

In a page, a block with `title="NAME"` is the file NAME, a `sh` block is typed, and a `text` block behind it is what the
commands print: each of its lines must come, in this order, whatever their digits and times are. Ports are exchanged for
free ones, so that pages can be typed side by side; everything else is typed as it stands.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.harness.parts import free_port

PATIENCE = 300.0  # seconds until a command is given up: much longer than any takes
_BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_VARIES = re.compile(r"sha256:[0-9a-f]+|e\^\d+|\d+(?:[.,:]\d+)*(?:e[+-]\d+)?")
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+")


class Block(NamedTuple):
    """A fenced block: its language, the file that it is (or empty), and what it says."""

    language: str
    file: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(*match.groups(default="")) for match in _BLOCK.finditer(page.read_text("utf-8"))]


class Terminal:
    """A shell in a folder, typed into."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._ports: dict[str, str] = {}
        self._output = ""
        self._typed = 0
        self._shell = subprocess.Popen(
            ["bash"], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def type_page(self, page: Path) -> str:
        """Type a whole page; all that was printed. Fails where something else comes than the page shows."""
        page_blocks = blocks(page)
        for block, following in zip(page_blocks, [*page_blocks[1:], Block("", "", "")], strict=True):
            if block.file:
                self.write(block)
            elif block.language == "sh":
                self.type(block.text, following.text if following.language == "text" else "")
            else:
                assert block.language == "text", f"a block of {page.name} is neither a file nor typed: {block}"
        return self._output

    def end(self) -> None:
        """Close the shell, and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)
        self._shell.wait()
        self._reader.join(10)

    def write(self, block: Block) -> None:
        """Write the file that a block is."""
        (self._folder / block.file).write_text(self._with_free_ports(block.text))

    def type(self, commands: str, shown: str) -> None:
        """Type commands, and wait until the last has ended and what the page shows has come."""
        before, self._typed = len(self._output), self._typed + 1
        sign = f"typed {self._typed}:"
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{self._with_free_ports(commands)}\necho '{sign}'$?\n".encode())
        self._shell.stdin.flush()
        expected = [_pattern(line) for line in shown.splitlines()]
        deadline = time.monotonic() + PATIENCE
        while sign not in self._output[before:] or not _in_order(expected, self._output[before:]):
            printed = self._output[before:]
            assert time.monotonic() < deadline, f"typed:\n{commands}\nexpected:\n{shown}\nprinted:\n{printed}"
            time.sleep(0.05)
        assert f"{sign}0" in self._output[before:], f"typed:\n{commands}\nprinted:\n{self._output[before:]}"

    def _with_free_ports(self, text: str) -> str:
        for port in _PORT.findall(text):
            if port not in self._ports:
                self._ports[port] = str(free_port())
        return _PORT.sub(lambda match: self._ports[match[0]], text)

    def _read(self) -> None:
        assert self._shell.stdout is not None
        while piece := os.read(self._shell.stdout.fileno(), 1 << 16):
            self._output += piece.decode("utf-8", "replace")


@contextmanager
def terminal(folder: Path, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """A shell, ended with everything that it started."""
    opened = Terminal(folder, environment)
    try:
        yield opened
    finally:
        opened.end()


def masked(line: str) -> str:
    """A line without what varies from one run to the next."""
    return _VARIES.sub("0", line.strip())


def _pattern(line: str) -> str:
    return r"[\w.,:^+-]+".join(re.escape(part) for part in _VARIES.split(line.strip()))


def _in_order(patterns: list[str], printed: str) -> bool:
    lines = iter(printed.splitlines())
    return all(any(re.search(pattern, line) for line in lines) for pattern in patterns)
