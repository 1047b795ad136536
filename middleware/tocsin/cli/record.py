"""tocsin record"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from tocsin.cli.serve import ConfigPath
from tocsin.configuration.config import Config
from tocsin.recording.progress import RecordingProgress
from tocsin.recording.recorder import Recorder
from tocsin.service import Sidecar, run_loop

log = logging.getLogger("tocsin")


def record(
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write Parquet files into.")],
    config: ConfigPath = Path("tocsin.yaml"),
    rows: Annotated[int, typer.Option(min=1, help="Stop recording after this many responses.")] = 100_000,
    stop_when_full: Annotated[
        bool,
        typer.Option("--stop-when-full", help="End the relay too when all rows are there; else it relays on."),
    ] = False,
) -> None:
    """Relay traffic unchanged, and record the signals of responses for fit and calibrate."""
    settings = Config.load(config).model_copy(update={"mode": "observe", "record": None})
    recorder = Recorder.open(settings)
    sidecar = Sidecar(settings, recorder.guard)

    async def run() -> None:
        until = asyncio.Event()

        def full() -> None:
            log.info("recorded %s responses; %s", f"{recorder.rows:,}", "done" if stop_when_full else "relaying on")
            if stop_when_full:
                until.set()

        recorder.start(out, rows, full)
        progress = RecordingProgress([*recorder.guard.methods], rows, lambda: recorder.rows)
        recorder.guard.sinks.append(progress)
        reports = asyncio.create_task(progress.run(lambda: sidecar.calls))
        try:
            await sidecar.run(lambda: log.info("recording: %s", sidecar.ways), until)
        finally:
            reports.cancel()
            recorder.close()
            if not recorder.rows or progress.has_left_out:
                log.warning("%s", progress.report(sidecar.calls))
            dropped = f", {recorder.dropped:,} dropped" if recorder.dropped else ""
            log.info("%s responses in %s%s", f"{recorder.rows:,}", out, dropped)

    run_loop(run())
