"""tocsin demo"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from tocsin.errors import ConfigError


def demo(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running, with its page to look at.")] = False,
    work: Annotated[Path, typer.Option(help="Where everything that the demo makes is kept.")] = Path(".demo"),
) -> None:
    """Guard a real model server on this machine: record, fit, calibrate, serve, and measure the promise."""
    for needed in ("matplotlib", "mlxtend", "sklearn", "spox", "torch", "tritonclient"):
        if importlib.util.find_spec(needed) is None:
            raise ConfigError(f"the demo needs {needed}: pip install 'tocsin[demo]'")
    from tocsin.demo.story import run_story

    run_story(work, json_file, keep=keep)
