"""tocsin demo"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tocsin.errors import ConfigError


def demo(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    work: Annotated[Path, typer.Option(help="Where everything that the demo makes is kept.")] = Path(".demo"),
) -> None:
    """Guard a real model server on this machine: record, fit, calibrate, serve, and measure the promise."""
    try:
        from tocsin.demo.story import tell
    except ImportError as error:
        raise ConfigError(f"the demo needs {error.name}: pip install 'tocsin[demo]'") from None
    tell(work, json_file)
