"""Writing a recording: the signals of responses in Parquet segments, bounded and crash-safe."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np

from tocsin.configuration.config import Config
from tocsin.errors import RecordingError
from tocsin.judgement.guard import Guard, Read
from tocsin.judgement.model import GuardedModel, guarded_models
from tocsin.judgement.sink import Sink
from tocsin.protocols.rows import Family, Rows
from tocsin.recording.columns import SHAPE
from tocsin.recording.reading import require_pyarrow
from tocsin.state.opening import State

log = logging.getLogger("tocsin")

SEGMENT_ROWS = 10_000
SEGMENT_SECONDS = 30.0
WAITING_BATCHES = 10_000


class _Batch(NamedTuple):
    model: str
    rows: Rows
    keys: list[tuple[float, str, str, str, str]]  # time, version, method, session, group; one a row
    shapes: dict[str, tuple[int, ...]]


class Recorder(Guard):
    """A guard that keeps responses' signals instead of scoring them. Made by `open` like a guard, then `start`.

    Rows go to a writer thread; when that falls behind, rows are dropped and counted, traffic never waits. At most
    `max_rows` rows are kept; `full` is called once when they are.
    """

    needs_bundles: ClassVar[bool] = False

    def __init__(
        self,
        config: Config,
        models: Mapping[str, GuardedModel],
        sinks: Iterable[Sink] = (),
        state: State | None = None,
    ) -> None:
        super().__init__(config, models, sinks, state)
        self.rows = self.dropped = 0
        self._max_rows = 0
        self._full: Callable[[], None] = lambda: None
        self._queue: queue.Queue[_Batch | None] = queue.Queue(WAITING_BATCHES)

    @classmethod
    def open(cls, config: Config | Path | str, sinks: Iterable[Sink] = ()) -> Self:
        """A recorder of every signal that the configuration names; its bundles need not exist yet."""
        config = config if isinstance(config, Config) else Config.load(config)
        bare = {
            name: model.model_copy(update={"bundle": None, "shadow": None}) for name, model in config.models.items()
        }
        alone, state = config.model_copy(update={"models": bare, "state": None}), State()
        return cls(alone, guarded_models(alone, state), sinks, state)

    def start(self, directory: Path, max_rows: int, full: Callable[[], None] = lambda: None) -> None:
        """Begin to record into `directory`. Raises RecordingError when it cannot be written."""
        require_pyarrow()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecordingError(f"{directory}: cannot be made ({error.strerror})") from error
        if not os.access(directory, os.W_OK):
            raise RecordingError(f"{directory}: cannot be written to")
        self._max_rows, self._full = max_rows, full
        self._writing = threading.Thread(target=_write_segments, args=(self._queue, directory), name="tocsin-recorder")
        self._writing.start()

    def score(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        """Keep the batch's rows."""
        del started
        rows = family.stack([raws for _, _, raws in batch])
        now = time.time()
        keys = [
            (now, call.version, call.method, model.session_of(call), model.group_of(call))
            for call, count, _ in batch
            for _ in range(count)
        ]
        room = self._max_rows - self.rows
        if room <= 0:
            return
        if len(keys) > room:
            keys, rows = keys[:room], {name: values[:room] for name, values in rows.items()}
        try:
            self._queue.put_nowait(_Batch(model.name, rows, keys, family.shapes))
        except queue.Full:
            self.dropped += len(keys)
            return
        self.rows += len(keys)
        if self.rows >= self._max_rows:
            self._full()

    def close(self) -> None:
        """Write what is left."""
        self._queue.put(None)
        self._writing.join()


def _for_owner(path: str, flags: int) -> int:
    """Opens a file that nobody else may read: it holds what a model has answered."""
    return os.open(path, flags, 0o600)


def _write_segments(batches: queue.Queue[_Batch | None], directory: Path) -> None:
    waiting: dict[tuple[object, ...], list[_Batch]] = {}
    since: dict[tuple[object, ...], float] = {}
    ended = False
    while not ended:
        try:
            batch = batches.get(timeout=1.0)
            if batch is None:
                ended = True
            else:
                key: tuple[object, ...] = (batch.model, *batch.shapes.items())
                waiting.setdefault(key, []).append(batch)
                since.setdefault(key, time.monotonic())
        except queue.Empty:
            pass
        for key, rows in list(waiting.items()):
            old = time.monotonic() - since[key] > SEGMENT_SECONDS
            if ended or old or sum(len(batch.keys) for batch in rows) >= SEGMENT_ROWS:
                del waiting[key], since[key]
                try:
                    _write_segment(directory, rows)
                except OSError as error:  # such as a full disk
                    log.error("%s: a segment of the recording was lost: %s", directory, error)


def _write_segment(directory: Path, batches: list[_Batch]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    times, versions, methods, sessions, groups = zip(*(key for batch in batches for key in batch.keys), strict=True)
    columns: dict[str, pa.Array] = {
        "time": pa.array((np.array(times) * 1e6).astype("datetime64[us]")),
        "model": pa.array([batches[0].model] * len(times)),
        "version": pa.array(versions),
        "method": pa.array(methods),
        "session": pa.array(sessions),
        "group": pa.array(groups),
    }
    for signal in batches[0].rows:
        values = np.concatenate([batch.rows[signal] for batch in batches])
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        columns[f"signal.{signal}"] = column
    shapes = {f"signal.{name}": ",".join(map(str, shape)) for name, shape in batches[0].shapes.items()}
    schema = pa.schema(
        pa.field(name, column.type, metadata={SHAPE: shapes[name].encode()} if name in shapes else None)
        for name, column in columns.items()
    )
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", batches[0].model)
    final = directory / f"{name}-{time.time_ns()}.parquet"
    staged = final.with_suffix(".part")
    try:
        with open(staged, "wb", opener=_for_owner) as file:
            pq.write_table(pa.Table.from_arrays(list(columns.values()), schema=schema), file)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        staged.unlink(missing_ok=True)
        raise
    staged.replace(final)
