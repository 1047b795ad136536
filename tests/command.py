"""The command `tocsin` as tests type it: in this process, which has imported everything already."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest import mock

from tocsin.cli import main


def tocsin(*arguments: str | Path, code: int = 0) -> CompletedProcess[str]:
    """Run the command to its end; what it printed. Fails where it ends otherwise than with `code`."""
    out, errors = io.StringIO(), io.StringIO()
    words = ["tocsin", *map(str, arguments)]
    with _log_of_its_own(), mock.patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(errors):
        ended = 0
        try:
            main()
        except SystemExit as end:
            ended = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            ended = 1
            traceback.print_exc()
    assert ended == code, errors.getvalue()
    assert "Traceback" not in errors.getvalue()
    return CompletedProcess(words, ended, out.getvalue(), errors.getvalue())


@contextmanager
def _log_of_its_own() -> Iterator[None]:
    """Let the command configure logging, instead of pytest."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = []
    with mock.patch.dict(os.environ):
        try:
            yield
        finally:
            root.handlers[:], root.level = before
