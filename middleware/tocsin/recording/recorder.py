"""Writing a recording: the signals of responses in Parquet segments, bounded and crash-safe."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from tocsin.configuration.config import Config
from tocsin.judgement.call import Read
from tocsin.judgement.guard import Guard
from tocsin.judgement.model import GuardedModel, guarded_models
from tocsin.protocols.rows import Family, Rows
from tocsin.recording.reading import require_pyarrow
from tocsin.recording.segments import Keys, file_stem, fixed_column, key_columns, make_folder, table_of, write_file
from tocsin.state.opening import State

log = logging.getLogger("tocsin")

SEGMENT_ROWS = 10_000
SEGMENT_SECONDS = 30.0
WAITING_BATCHES = 10_000


class _Batch(NamedTuple):
    model: str
    rows: Rows
    keys: list[Keys]  # one a row
    shapes: dict[str, tuple[int, ...]]


class Recorder:
    """Records the signals of responses instead of scoring them. Made by `open`, then `start`.

    Rows go to a writer thread. When that falls behind, rows are dropped and counted, so that traffic never waits. At
    most `max_rows` rows are kept; `full` is called once when that many are.
    """

    def __init__(self, config: Config, models: Mapping[str, GuardedModel], state: State) -> None:
        self.guard = Guard(config, models, state=state, keep=self._keep)
        self.rows = self.dropped = 0
        self._max_rows = 0
        self._full: Callable[[], None] = lambda: None
        self._queue: queue.Queue[_Batch | None] = queue.Queue(WAITING_BATCHES)

    @classmethod
    def open(cls, config: Config | Path | str) -> Self:
        """A recorder of every signal that the configuration names. Its bundles need not exist yet."""
        config = config if isinstance(config, Config) else Config.load(config)
        bare = {
            name: model.model_copy(update={"bundle": None, "shadow": None, "second_opinion": None})
            for name, model in config.models.items()
        }
        alone, state = config.model_copy(update={"models": bare, "state": None}), State()
        return cls(alone, guarded_models(alone, state), state)

    def start(self, directory: Path, max_rows: int, full: Callable[[], None] = lambda: None) -> None:
        """Start recording into `directory`. Raises RecordingError when it cannot be written."""
        require_pyarrow()
        make_folder(directory)
        self._max_rows, self._full = max_rows, full
        self._writing = threading.Thread(target=_write_segments, args=(self._queue, directory), name="tocsin-recorder")
        self._writing.start()

    def _keep(self, model: GuardedModel, family: Family, batch: list[Read]) -> None:
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
    model = batches[0].model
    columns = key_columns(model, [keys for batch in batches for keys in batch.keys])
    for signal in batches[0].rows:
        columns[f"signal.{signal}"] = fixed_column(np.concatenate([batch.rows[signal] for batch in batches]))
    final = directory / f"{file_stem(model)}-{time.time_ns()}.parquet"
    write_file(final, [table_of(columns, batches[0].shapes)])
