"""tocsin watch --histogram"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any, NamedTuple

from rich.console import Console

from tocsin.cli.standing_lines import standing_line
from tocsin.errors import RecordingError
from tocsin.replay.histogram_watch import HistogramWatch
from tocsin.replay.scraped_histogram import ScrapedHistogram, page_of, selector_of
from tocsin_calibration import Bundle

COUNTED = {"tocsin_pvalue": "pvalue", "tocsin_score": "score"}  # what Tocsin's own histograms count


class HistogramSource(NamedTuple):
    """Where the histogram is, and which; seconds between two looks, None for one look; the settings of evidence."""

    page: str
    histogram: str
    interval: float | None
    delta: float
    restart: int
    as_json: bool


def watch_histogram(bundle: Bundle, source: HistogramSource) -> None:
    """Look at a histogram once, or until Ctrl-C, and print how the promise stands whenever new scores have come. A look
    that fails after the first is reported, and the next one is tried.
    """
    selector = selector_of(source.histogram)
    watch = HistogramWatch(bundle, COUNTED.get(selector.name, "signal"), delta=source.delta, restart=source.restart)
    scraped = ScrapedHistogram(selector)
    console, errors = Console(highlight=False, soft_wrap=True, markup=False), Console(stderr=True, markup=False)
    is_first = True
    with suppress(KeyboardInterrupt):
        while True:
            try:
                count = watch.take(scraped.look(page_of(source.page), source.page))
            except RecordingError as error:
                if is_first:
                    raise
                errors.print(str(error))
                count = 0
            if count or is_first:
                console.print(_report(watch, as_json=source.as_json))
            is_first = False
            if source.interval is None:
                return
            time.sleep(source.interval)


def _report(watch: HistogramWatch, *, as_json: bool) -> str:
    """How the promise stands, as text or as JSON."""
    counted = watch.standings()
    if as_json:
        facts: dict[str, Any] = {
            name: {**of_name.standing._asdict(), "undecided": of_name.undecided} for name, of_name in counted.items()
        }
        return json.dumps({"scores": watch.trials, "severities": facts})
    lines = [f"{watch.trials:,} scores"]
    for name, of_name in counted.items():
        undecided = f"; {of_name.undecided:,} in a bucket that holds the threshold count as calm"
        line = standing_line(name, of_name.standing, watch.promise.unit)
        lines.append(line + (undecided if of_name.undecided else ""))
    return "\n".join(lines)
