"""`tocsin gate`, as its tests call it, and its exit codes."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from tocsin.cli.main import app

HOUR, SCRAPE = 3600.0, 15.0
AHEAD = 1800.0  # seconds that series go on after now: tests may be slow
PROMOTE, ABORT, ERROR, CONTINUE = 0, 1, 2, 3


def gate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["gate", *map(str, arguments)])


def facts(*arguments: object) -> dict[str, Any]:
    done = gate(*arguments, "--json")
    assert done.exit_code in (PROMOTE, ABORT, CONTINUE), done.output + str(done.exception)
    result: dict[str, Any] = json.loads(done.stdout)
    return result
