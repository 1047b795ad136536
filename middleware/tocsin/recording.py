"""Recordings of safe traffic: signals in Parquet files, written bounded and crash-safe, read for fit and calibrate."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tocsin.config import Config
from tocsin.errors import ConfigError, RecordingError
from tocsin.judgement.guard import Guard, Read
from tocsin.judgement.model import Family, GuardedModel, Rows
from tocsin.sinks import Sink
from tocsin_detectors import Observations

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger("tocsin")

SEGMENT_ROWS = 10_000
SEGMENT_SECONDS = 30.0
WAITING_BATCHES = 10_000


class _Batch(NamedTuple):
    model: str
    rows: Rows
    keys: list[tuple[float, str, str, str]]  # time, version, method, session; one a row


class Recorder(Guard):
    """A guard that keeps responses' signals instead of scoring them. Made by `open` like a guard, then `start`.

    Rows go to a writer thread; when that falls behind, rows are dropped and counted, traffic never waits. At most
    `max_rows` rows are kept; `full` is called once when they are.
    """

    needs_bundles: ClassVar[bool] = False

    def __init__(self, config: Config, models: Mapping[str, GuardedModel], sinks: Iterable[Sink] = ()) -> None:
        super().__init__(config, models, sinks)
        self.rows = self.dropped = 0
        self._max_rows = 0
        self._full: Callable[[], None] = lambda: None
        self._queue: queue.Queue[_Batch | None] = queue.Queue(WAITING_BATCHES)

    @classmethod
    def open(cls, config: Config | Path | str, sinks: Iterable[Sink] = ()) -> Self:
        """A recorder of every signal that the configuration names; its bundles need not exist yet."""
        config = config if isinstance(config, Config) else Config.load(config)
        bare = {name: model.model_copy(update={"bundle": None}) for name, model in config.models.items()}
        return super().open(config.model_copy(update={"models": bare}), sinks)

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
        self._thread = threading.Thread(target=_write_segments, args=(self._queue, directory), name="tocsin-recorder")
        self._thread.start()

    def score(self, model: GuardedModel, family: Family, batch: list[Read], started: float) -> None:
        """Keep the batch's rows."""
        del started
        rows = family.stack([read.raws for read in batch])
        now = time.time()
        keys = [(now, r.call.version, r.call.method, r.call.session) for r in batch for _ in range(r.rows)]
        room = self._max_rows - self.rows
        if room <= 0:
            return
        if len(keys) > room:
            keys, rows = keys[:room], {name: values[:room] for name, values in rows.items()}
        try:
            self._queue.put_nowait(_Batch(model.name, rows, keys))
        except queue.Full:
            self.dropped += len(keys)
            return
        self.rows += len(keys)
        if self.rows >= self._max_rows:
            self._full()

    def close(self) -> None:
        """Write what is left."""
        self._queue.put(None)
        self._thread.join()


def _write_segments(batches: queue.Queue[_Batch | None], directory: Path) -> None:
    waiting: dict[tuple[str, tuple[int, ...]], list[_Batch]] = {}
    since: dict[tuple[str, tuple[int, ...]], float] = {}
    ended = False
    while not ended:
        try:
            batch = batches.get(timeout=1.0)
            if batch is None:
                ended = True
            else:
                key = (batch.model, tuple(v.shape[1] for v in batch.rows.values()))
                waiting.setdefault(key, []).append(batch)
                since.setdefault(key, time.monotonic())
        except queue.Empty:
            pass
        for key, own in list(waiting.items()):
            old = time.monotonic() - since[key] > SEGMENT_SECONDS
            if ended or old or sum(len(batch.keys) for batch in own) >= SEGMENT_ROWS:
                del waiting[key], since[key]
                try:
                    _write_segment(directory, own)
                except OSError as error:
                    log.error("%s: a segment of the recording was lost: %s", directory, error)


def _write_segment(directory: Path, batches: list[_Batch]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    times, versions, methods, sessions = zip(*(key for batch in batches for key in batch.keys), strict=True)
    columns: dict[str, pa.Array] = {
        "time": pa.array((np.array(times) * 1e6).astype("datetime64[us]")),
        "model": pa.array([batches[0].model] * len(times)),
        "version": pa.array(versions),
        "method": pa.array(methods),
        "session": pa.array(sessions),
    }
    for signal in batches[0].rows:
        values = np.concatenate([batch.rows[signal] for batch in batches])
        columns[f"signal.{signal}"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", batches[0].model)
    final = directory / f"{name}-{time.time_ns()}.parquet"
    staged = final.with_suffix(".part")
    with staged.open("wb") as file:
        pq.write_table(pa.table(columns), file)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(final)


class RecordedFile(NamedTuple):
    """One file of a recording, its rows of one model."""

    path: Path
    sha256: str
    observations: Observations


def read_recording(path: Path | str, model: str | None = None, signals: Iterable[str] = ()) -> list[RecordedFile]:
    """A recording: a Parquet file, or a folder of them. Only `signals`, or all there are.

    A signal is a column named `signal.NAME` holding lists of numbers of one length, or numbers. Raises
    RecordingError: no file, no such model or signal, several models and none named, another width than before.
    """
    require_pyarrow()
    path = Path(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise RecordingError(f"{path}: there is no recording; `tocsin record` makes one")
    found = [(file, _read_file(file, model, list(signals))) for file in files]
    if model is None:
        models = sorted({name for _, (names, _) in found for name in names})
        if len(models) > 1:
            raise RecordingError(f"{path}: holds several models ({', '.join(models)}); choose one with --model")
    kept = [RecordedFile(file, _sha256(file), rows) for file, (_, rows) in found if rows is not None]
    if not kept:
        raise RecordingError(f"{path}: holds no responses of model '{model}'")
    widths = {name: values.shape[1] for name, values in kept[0].observations.items()}
    for file in kept[1:]:
        own = {name: values.shape[1] for name, values in file.observations.items()}
        if own != widths:
            raise RecordingError(f"{file.path}: has the signals {own}, but {kept[0].path.name} has {widths}")
    return kept


def _read_file(path: Path, model: str | None, signals: list[str]) -> tuple[set[str], Observations | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise RecordingError(f"{path}: is no Parquet file ({error})") from error
    models = set(table.column("model").unique().to_pylist()) if "model" in table.column_names else set()
    if model is not None and models:
        table = table.filter(pa.compute.equal(table.column("model"), model))
    if not table.num_rows:
        return models, None
    there = [name.removeprefix("signal.") for name in table.column_names if name.startswith("signal.")]
    for signal in signals or there or ["?"]:
        if signal not in there:
            told = ", ".join(there) or "none; signals are columns named signal.NAME"
            raise RecordingError(f"{path}: has no signal '{signal}' (it has: {told})")
    columns = {name: _values(path, name, table.column(f"signal.{name}")) for name in signals or there}
    return models, Observations(columns)


def _values(path: Path, name: str, column: pyarrow.ChunkedArray) -> NDArray[np.float32]:
    import pyarrow as pa

    kind = column.type
    if column.null_count:
        raise RecordingError(f"{path}: signal '{name}' is empty in {column.null_count} rows")
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        rows = len(column)
        values = np.asarray(column.combine_chunks().flatten(), np.float32)
        lengths = pa.compute.list_value_length(column)
        if pa.compute.min_max(lengths)["min"].as_py() != pa.compute.min_max(lengths)["max"].as_py():
            raise RecordingError(f"{path}: signal '{name}' has lists of different lengths")
        return values.reshape(rows, -1)
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise RecordingError(f"{path}: signal '{name}' is {kind}, not numbers")
    return np.asarray(column, np.float32)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_pyarrow() -> None:
    """Raises ConfigError when pyarrow, which reads and writes recordings, is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ConfigError("recordings need pyarrow: pip install 'tocsin[record]'") from None
