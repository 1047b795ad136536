"""tocsin serve"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tocsin.addresses import redacted_url
from tocsin.checking import file_problems
from tocsin.cli.edition import is_compiled
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError
from tocsin.judgement.guard import Guard
from tocsin.observability import HttpEndpoint
from tocsin.service import Sidecar, run_loop

log = logging.getLogger("tocsin")

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The configuration file.")]


def serve(
    config: ConfigPath = Path("tocsin.yaml"),
    worker: Annotated[int | None, typer.Option(hidden=True, help="The socket to a supervisor.")] = None,
) -> None:
    """Relay calls between callers and a model server, and judge every response. SIGHUP reloads."""
    settings = Config.load(config)
    guard = Guard.open(settings)
    if worker is None and (problems := file_problems(settings)):
        raise ConfigError("\n".join(problems))
    if worker is not None:
        _serve_as_worker(settings, guard, config, worker)
    elif settings.workers > 1:
        _supervise(settings, guard, config)
    else:
        sidecar = Sidecar(settings, guard, config)

        async def run() -> None:
            await sidecar.run(
                lambda: _announce(guard, sidecar.relay.addresses, sidecar.http, sidecar.ext_proc_address),
                asyncio.Event(),
            )

        run_loop(run())


def _serve_as_worker(settings: Config, guard: Guard, config: Path, worker: int) -> None:
    from tocsin.workers.worker import Reporter

    sidecar = Sidecar(settings, guard, config, worker=True)
    reporter = Reporter(sidecar, socket.socket(fileno=worker))

    async def run() -> None:
        gone = asyncio.Event()
        starting: list[asyncio.Task[None]] = []
        await sidecar.run(lambda: starting.append(asyncio.create_task(reporter.start(gone))), gone)
        await reporter.finish()

    run_loop(run())


def _supervise(settings: Config, guard: Guard, config: Path) -> None:
    from tocsin.workers.supervisor import Supervisor

    supervisor = Supervisor(settings, guard, config)
    addresses = [listener.listen for listener in settings.every_listener]

    async def run() -> None:
        await supervisor.run(
            lambda: _announce(guard, addresses, supervisor.http, str(settings.ext_proc or "")), asyncio.Event()
        )

    run_loop(run())


def _announce(guard: Guard, addresses: Sequence[object], http: HttpEndpoint | None, ext_proc: str) -> None:
    """Log what is served."""
    for model in guard.models.values():
        if model.scoring is None:
            log.warning("model %s has no bundle: its responses pass unscored", model.name)
        else:
            promise = "; ".join(str(model.scoring.promise).splitlines())
            log.info("model %s, %s: %s", model.name, model.scoring.digest[:19], promise)
    for name, settings in guard.config.models.items():
        if (second := settings.second_opinion) is not None:
            what = f"{second.share:g} of its calls" + (", and of those that alarm," if second.alarmed else "")
            log.info(
                "model %s: texts of %s are sent to the judge at %s", name, what, redacted_url(str(second.judge.url))
            )
    config = guard.config
    metrics = f", metrics on {http.url}/metrics" if http is not None else ""
    if http is not None and config.page:
        metrics += f", a page to look at on {http.url}/"
    compiled = " (compiled)" if is_compiled() else ""
    for address, listener in zip(addresses, config.every_listener, strict=True):
        log.info("%s%s: %s -> %s%s", config.mode, compiled, address, listener.upstream, metrics)
    if ext_proc:
        log.info("%s%s: external processor of Envoy on %s%s", config.mode, compiled, ext_proc, metrics)
    if config.workers > 1:
        log.info("%d workers", config.workers)
