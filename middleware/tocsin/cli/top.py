"""tocsin top"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from tocsin.errors import TocsinError
from tocsin.page.terminal import picture

ALARMS_SHOWN = 10  # alarms
SILENCE = 10.0  # seconds without news after which nobody is there


def top(
    of: Annotated[str, typer.Option(help="The metrics address of a running tocsin.")] = "127.0.0.1:9464",
    once: Annotated[bool, typer.Option("--once", help="Print one look and end.")] = False,
    search: Annotated[
        str, typer.Option(help="Only alarms whose session, trace, id, model, version or severity holds this text.")
    ] = "",
    alarms: Annotated[int | None, typer.Option(min=1, help="Show so many alarms; else what fits.")] = None,
) -> None:
    """Watch a running tocsin in the terminal: promises, rates, the last alarms. Ctrl-C ends."""
    console = Console()
    looks = live(of)
    if once or not sys.stdout.isatty():
        for snapshot in looks:
            console.print(picture(snapshot, last_alarms(of, search, alarms or ALARMS_SHOWN)))
            return
        return
    with suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as screen:
        for snapshot in looks:
            shown = last_alarms(of, search, alarms or max(3, console.height // 3))
            screen.update(picture(snapshot, shown), refresh=True)


def last_alarms(address: str, search: str, last: int) -> list[dict[str, Any]]:
    """The last alarms that hold a text, the newest first. Raises TocsinError when nobody is there."""
    query = urllib.parse.urlencode({"search": search, "last": last})
    try:
        with urllib.request.urlopen(f"http://{address}/alarms?{query}", timeout=SILENCE) as answer:
            alarms: list[dict[str, Any]] = json.load(answer)
            return alarms[::-1][:last]
    except (OSError, ValueError) as error:
        raise TocsinError(f"{address}: its alarms cannot be read ({error})") from None


def live(address: str) -> Iterator[dict[str, Any]]:
    """What the page of a tocsin tells, once a second, until it ends. Raises TocsinError when it is not there."""
    try:
        with urllib.request.urlopen(f"http://{address}/live", timeout=SILENCE) as answer:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
    except urllib.error.HTTPError as error:
        problem = "its page is turned off (page: false)" if error.code == 404 else str(error)
        raise TocsinError(f"{address}: {problem}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise TocsinError(f"{address}: no tocsin to be seen there ({reason}); --of names its metrics address") from None
