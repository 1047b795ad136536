"""How the log is written: lines for people, or JSON for programs."""

from __future__ import annotations

import logging
import os
import sys
from typing import Literal

from tocsin.cli.log_lines import LineFormatter, bounded

FORMAT = "TOCSIN_LOG"  # in the environment, also for the workers that a process starts

Form = Literal["text", "json"]


def set_up(form: Form, *, verbose: bool) -> None:
    """Configure the log of this process and of those that it starts, on standard error."""
    os.environ[FORMAT] = form
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_json() if form == "json" else LineFormatter())
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    for noisy in ("asyncio", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _json() -> logging.Formatter:
    """Writes records as lines of JSON, without the values of local variables."""
    import structlog

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper("iso", utc=True),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            # without local variables, which hold what was asked and answered
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            structlog.processors.EventRenamer("message"),
            bounded,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ],
    )
