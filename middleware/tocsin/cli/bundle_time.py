"""tocsin bundle time"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tocsin.cli.edition import is_compiled
from tocsin.cli.tables import print_table
from tocsin.errors import ConfigError
from tocsin.offline.relay_cost import FITTED, MODES, ResponseKind, machine_factor, scored_us
from tocsin_calibration import Bundle, BundleError
from tocsin_detectors import DetectorError, Scorer
from tocsin_detectors.costs import costs_by_detector

STREAM = 100  # messages of the stream that is predicted


def time_(
    file: Annotated[Path, typer.Argument(help="A bundle.")],
    rows: Annotated[list[int] | None, typer.Option(min=1, help="Responses in a batch; may be given again.")] = None,
    kilobytes: Annotated[float, typer.Option(min=0, help="The size of a response to predict a relay's CPU for.")] = 4,
) -> None:
    """Time each detector of a bundle on this machine, one thread; predict a relay's CPU."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ConfigError("timing detectors one by one needs onnx: pip install 'tocsin[fit]'") from None
    scorer, batches = Bundle.read(file).scorer, rows or [1, 8, 64]
    console = Console(highlight=False, soft_wrap=True)
    try:
        scorer.warm()
        together = [scorer.cost(size) for size in batches]
        alone = [costs_by_detector(scorer, size) for size in batches]
        predicted = _predicted(scorer, kilobytes)
    except DetectorError as error:
        raise BundleError(f"{file}: {error}") from error
    table_rows = [[name, *(f"{1e6 * costs[name]:,.1f} us" for costs in alone)] for name in scorer.detectors]
    table_rows.append(["all, as one graph", *(f"{1e6 * cost:,.1f} us" for cost in together)])
    print_table(console, ("a response, alone", *(f"in batches of {size}" for size in batches)), table_rows, right=True)
    build = "compiled" if is_compiled() else "not compiled"
    console.print(f"\nCPU of a relay here ({build}) for a response of {kilobytes:g} KB, predicted:")
    print_table(
        console, ("mode", "many calls at a time", "one at a time", "a message of a stream"), predicted, right=True
    )


def _predicted(scorer: Scorer, kilobytes: float) -> list[list[str]]:
    """A row for each mode. Raises GraphError where the graph cannot be timed."""
    factor = machine_factor()
    kinds = (
        ResponseKind(kilobytes),
        ResponseKind(kilobytes, one_at_a_time=True),
        ResponseKind(STREAM * kilobytes, messages=STREAM),
    )
    scoring = [scored_us(scorer, kind) for kind in kinds]
    table = []
    for mode in MODES:
        fitted = FITTED[mode, is_compiled()]
        costs = [factor * fitted.us(kind) + us for kind, us in zip(kinds, scoring, strict=True)]
        table.append([mode, *(f"{us / kind.messages:,.0f} us" for us, kind in zip(costs, kinds, strict=True))])
    return table
