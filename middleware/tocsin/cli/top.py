"""tocsin top"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from tocsin.errors import TocsinError
from tocsin.page.terminal import picture

SILENCE = 10.0  # seconds without news after which nobody is there


def top(
    of: Annotated[str, typer.Option(help="The metrics address of a running tocsin.")] = "127.0.0.1:9464",
    once: Annotated[bool, typer.Option("--once", help="Print one look and end.")] = False,
) -> None:
    """Watch a running tocsin in the terminal: promises, rates, the last alarms. Ctrl-C ends."""
    console = Console()
    looks = live(of)
    if once or not sys.stdout.isatty():
        for snapshot in looks:
            console.print(picture(snapshot))
            return
        return
    with suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as screen:
        for snapshot in looks:
            screen.update(picture(snapshot, alarms=max(3, console.height // 3)), refresh=True)


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
