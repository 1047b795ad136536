"""Recording while serving: a sink that keeps a random sample of judged responses, and writes it at intervals."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tocsin.configuration.record import RecordConfig
from tocsin.judgement.call import Call
from tocsin.judgement.model import GuardedModel
from tocsin.judgement.sink import Scored, Signals, Sink
from tocsin.log_throttle import LogThrottle, and_more
from tocsin.recording.reading import require_pyarrow
from tocsin.recording.reservoir import RecordedRow, RowReservoir
from tocsin.recording.segments import (
    file_stem,
    fixed_column,
    key_columns,
    make_folder,
    nested_column,
    table_of,
    write_file,
)

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger("tocsin")

SLICE = 500  # rows made into columns at a time, between which other threads have their turn
Facts = dict[str, dict[str, int]]  # metric -> label value -> number


class SampleSink(Sink):
    """Keeps a sample of each model's judged responses, and writes it into a folder, by a thread of its own.

    `processes`: how many workers share the bounds. Responses that alarm are sampled as any other: a calibration without
    them would call ever more of the safe ones unusual. Raises RecordingError where the folder cannot be written,
    ConfigError where pyarrow is missing.
    """

    def __init__(self, models: Mapping[str, GuardedModel], config: RecordConfig, processes: int = 1) -> None:
        require_pyarrow()
        make_folder(config.to)
        import pyarrow.parquet  # noqa: F401  now, not while responses wait

        self._models = dict(models)
        self._config = config
        self._processes = processes
        self._samples: dict[str, _Sample] = {}
        self._start = time.time()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._throttle = LogThrottle()
        self._ending = threading.Event()
        self._writing = threading.Thread(target=self._write_now_and_then, name="tocsin-record", daemon=True)
        self._writing.start()

    def follow(self, models: Mapping[str, GuardedModel]) -> None:
        """Sample the responses of these models from here on."""
        self._models = dict(models)

    def scored(self, batch: Scored) -> None:
        """Keep the rows of the batch that the sample draws."""
        model = self._models.get(batch.model)
        if model is None or not batch.shapes:
            return
        reservoir = self._sample(batch.model).reservoir
        signals: Signals | None = None  # stacked for rows that are drawn alone
        now, first = time.time(), 0
        for call in batch.calls:
            assert call.verdict is not None
            rows = len(call.verdict.pvalues)
            for row, number in self._drawn(reservoir, rows, model, call):
                signals = batch.signals() if signals is None else signals
                values = {name: signal[first + row].copy() for name, signal in signals.items()}
                shapes = {name: _row_shape(shape, model.shapes.width(name)) for name, shape in batch.shapes.items()}
                session, group = model.session_of(call), model.group_of(call)
                reservoir.add(number, RecordedRow(now, call.version, call.method, session, group, values, shapes))
            first += rows

    def facts(self) -> Facts:
        """How many rows are kept now, and how many files were written or failed."""
        samples = list(self._samples.items())
        return {
            "recording_rows": {model: len(sample.reservoir) for model, sample in samples},
            "recording_bytes": {model: sample.reservoir.bytes for model, sample in samples},
            "recording_left_out": {model: sample.reservoir.left_out for model, sample in samples},
            "recording_files": {outcome: self._counts[outcome] for outcome in ("written", "failed")},
        }

    def collect(self) -> Iterable[Metric]:
        """The same as Prometheus metrics."""
        return families(self.facts())

    def close(self) -> None:
        """Write what is kept, and end."""
        self._ending.set()
        self._writing.join()

    def _drawn(
        self, reservoir: RowReservoir, rows: int, model: GuardedModel, call: Call
    ) -> Sequence[tuple[int, float]]:
        """Which of a call's rows are drawn, and each one's number."""
        session = model.session_of(call) if self._config.sample == "sessions" else ""
        if not session:
            return reservoir.draw_below(rows)
        number = reservoir.draw(session)
        return [(row, number) for row in range(rows)] if number < reservoir.threshold else []

    def _sample(self, model: str) -> _Sample:
        sample = self._samples.get(model)
        if sample is None:
            with self._lock:
                share = self._processes * max(1, len(self._models))
                reservoir = RowReservoir(max(1, self._config.rows // self._processes), int(self._config.size) // share)
                sample = self._samples.setdefault(model, _Sample(reservoir))
        return sample

    def _write_now_and_then(self) -> None:
        period, every = self._config.period.total_seconds(), self._config.every.total_seconds()
        while not self._ending.wait(max(0.0, min(every, self._start + period - time.time()))):
            self._write_all()
            if self._start + period <= time.time():
                self._begin_anew(time.time())
        self._write_all()

    def _begin_anew(self, now: float) -> None:
        """End every sample, and begin the next."""
        with self._lock:
            self._start, self._samples = now, {}

    def _write_all(self) -> None:
        """Write what is new."""
        for model, sample in list(self._samples.items()):
            try:
                self._write(model, sample, self._start)
            except Exception as error:  # such as a full disk, or a folder that is gone
                self._counts["failed"] += 1
                if (suppressed := self._throttle.admit(model)) is not None:
                    what_failed = f"{type(error).__name__}: {error}{and_more(suppressed)}"
                    log.error("%s: the sample of model %s was not written: %s", self._config.to, model, what_failed)

    def _write(self, model: str, sample: _Sample, start: float) -> None:
        rows = sample.reservoir.content()
        mark = (len(rows), rows[-1].time, sample.reservoir.threshold) if rows else None
        if mark == sample.written:
            return
        stem = file_stem(model)
        began = time.strftime("%Y%m%dT%H%M%S", time.gmtime(start))
        layouts = groupby(sorted(rows, key=_layout), key=_layout)
        for number, (_, alike) in enumerate(layouts):
            name = f"{stem}-sample-{began}-{os.getpid()}" + (f"-{number}" if number else "")
            write_file(self._config.to / f"{name}.parquet", _tables(model, list(alike)))
            self._counts["written"] += 1
        sample.written = mark
        self._remove_oldest(stem)

    def _remove_oldest(self, stem: str) -> None:
        files = sorted(self._config.to.glob(f"{stem}-sample-*.parquet"), key=lambda path: path.stat().st_mtime)
        for path in files[: -max(self._config.files, self._processes)]:
            path.unlink(missing_ok=True)


class _Sample:
    """A model's sample of one period, and what of it was written last."""

    def __init__(self, reservoir: RowReservoir) -> None:
        self.reservoir = reservoir
        self.written: tuple[int, float, float] | None = None


def families(of: Mapping[str, Mapping[str, int]]) -> Iterable[Metric]:
    """Facts as Prometheus families."""
    rows = GaugeMetricFamily("tocsin_recording_responses", "Responses in the sample that is kept.", labels=["model"])
    size = GaugeMetricFamily("tocsin_recording_bytes", "Bytes that the sample takes in memory.", labels=["model"])
    left_out = GaugeMetricFamily(
        "tocsin_recording_left_out", "Responses too large for the sample, of its period.", labels=["model"]
    )
    files = CounterMetricFamily("tocsin_recording_files", "Files of samples, by what became.", labels=["outcome"])
    for family, name in (
        (rows, "recording_rows"),
        (size, "recording_bytes"),
        (left_out, "recording_left_out"),
        (files, "recording_files"),
    ):
        for label, number in of.get(name, {}).items():
            family.add_metric([label], number)
        yield family


def lasting_facts(of: Mapping[str, Mapping[str, int]]) -> Facts:
    """What stays of the facts of a process that has ended: what it counted."""
    return {name: dict(of[name]) for name in ("recording_files",) if name in of}


def _row_shape(shape: tuple[int, ...], width: int) -> tuple[int, ...]:
    """A row's shape: of a signal of one `width` without the batch axis of 1 that a response of one row may show."""
    while width and len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape


def _layout(row: RecordedRow) -> tuple[tuple[str, int], ...]:
    """What rows of one file have in common: signals, and how many axes each has."""
    return tuple((name, len(shape)) for name, shape in sorted(row.shapes.items()))


def _tables(model: str, rows: list[RecordedRow]) -> Iterator[pyarrow.Table]:
    every = {name: {row.shapes[name] for row in rows} for name in rows[0].shapes}
    fixed = {name: next(iter(shapes)) for name, shapes in every.items() if len(shapes) == 1}
    varying = {
        name: [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
        for name, shapes in every.items()
    }
    for start in range(0, len(rows), SLICE):
        part = rows[start : start + SLICE]
        columns = key_columns(model, [row[:5] for row in part])
        for name in every:
            values = [row.signals[name] for row in part]
            if name in fixed:
                columns[f"signal.{name}"] = fixed_column(np.stack(values))
            else:
                columns[f"signal.{name}"] = nested_column(values, [row.shapes[name] for row in part], varying[name])
        yield table_of(columns, fixed)
