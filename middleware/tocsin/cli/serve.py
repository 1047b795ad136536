"""tocsin serve"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from tocsin.config import Config
from tocsin.judgement.guard import Guard
from tocsin.service import Sidecar, run_loop

log = logging.getLogger("tocsin")

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]


def serve(config: ConfigPath = Path("tocsin.yaml")) -> None:
    """Stand between callers and a model server, and judge every response."""
    settings = Config.load(config)
    guard = Guard.open(settings)
    sidecar = Sidecar(settings, guard)

    def started() -> None:
        for model in guard.models.values():
            if model.bundle is None:
                log.warning("model %s has no bundle: its responses pass unscored", model.name)
            else:
                log.info(
                    "model %s, %s: %s",
                    model.name,
                    model.digest[:19],
                    "; ".join(str(model.promise).splitlines()),
                )
        metrics = f", metrics on http://{sidecar.http.address}/metrics" if sidecar.http else ""
        log.info("%s: %s -> %s%s", settings.mode, sidecar.relay.address, settings.upstream, metrics)

    async def run() -> None:
        await sidecar.run(started, asyncio.Event())

    run_loop(run())
