"""Reads a recording batch by batch, however large it is, for fit and calibrate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import ConfigError, RecordingError
from tocsin.recording.columns import padded_rows
from tocsin.recording.parquet_files import (
    SIGNAL_PREFIX,
    Mask,
    Shape,
    joint_shape,
    rows_of,
    sha256_of,
    signal_column,
    signal_names,
    signal_shapes,
    tables,
)
from tocsin_detectors import FittingData, Observations, SignalError
from tocsin_detectors.free_length import FreeLength

if TYPE_CHECKING:
    import pyarrow

SESSION, GROUP = "session", "group"  # columns that `tocsin record` writes


class RecordedFile(NamedTuple):
    """One file of a recording, and which of its rows belong to it: one bit each, to take little memory."""

    path: Path
    sha256: str
    length: int
    rows: int
    bits: NDArray[np.uint8]

    @classmethod
    def of(cls, path: Path, sha256: str, rows: Mask) -> RecordedFile:
        """From a mask of its rows."""
        return cls(path, sha256, len(rows), int(rows.sum()), np.packbits(rows))

    @property
    def mask(self) -> Mask:
        """A mask of its rows that belong to the recording."""
        return np.unpackbits(self.bits, count=self.length).astype(bool)

    def keeping(self, rows: Mask) -> RecordedFile:
        """The same file with other rows."""
        return self.of(self.path, self.sha256, rows)


class Recording(FittingData):
    """The responses of one model in a recording. Only the batch in use is in memory.

    `prefix` begins the names of the columns that are read as signals. `on_read` is called with the number of rows of
    each batch.
    """

    on_read: Callable[[int], None] = staticmethod(lambda rows: None)

    def __init__(
        self,
        files: tuple[RecordedFile, ...],
        shapes: Mapping[str, Shape],
        free: Mapping[str, FreeLength],
        prefix: str = SIGNAL_PREFIX,
    ) -> None:
        self.files = files
        self.prefix = prefix
        self.rows = sum(file.rows for file in files)
        self._shapes = dict(shapes)
        self._free = dict(free)

    def __getstate__(self) -> dict[str, Any]:
        """Everything except the callback `on_read`, which stays in this process."""
        return {name: value for name, value in self.__dict__.items() if name != "on_read"}

    def names(self) -> tuple[str, ...]:
        return tuple(self._shapes)

    def shape(self, name: str) -> Shape:
        try:
            return self._shapes[name]
        except KeyError:
            raise SignalError(f"there is no signal '{name}'; there is {', '.join(self._shapes)}") from None

    @property
    def size(self) -> int:
        """Bytes it takes in memory."""
        return self.rows * sum(self.width(name) for name in self._shapes) * 4

    def batches(self, shuffle: np.random.Generator | None = None) -> Iterator[Observations]:
        order = np.arange(len(self.files)) if shuffle is None else shuffle.permutation(len(self.files))
        for file in (self.files[at] for at in order):
            meant = file.mask
            for start, table in tables(file.path, self._columns(), shuffle):
                chosen = np.flatnonzero(meant[start : start + len(table)])
                if not len(chosen):
                    continue
                part = Observations({name: self._values(file.path, name, table) for name in self._shapes})
                self.on_read(len(chosen))
                yield part.take(chosen if shuffle is None else shuffle.permutation(chosen))

    def take(self, index: NDArray[np.intp]) -> Recording:
        every = np.zeros(self.rows, bool)
        every[index] = True
        files, start = [], 0
        for file in self.files:
            chosen = file.mask
            chosen[chosen] = every[start : (start := start + file.rows)]
            files.append(file.keeping(chosen))
        return self._of(files)

    def column(self, name: str, missing: object = None) -> NDArray[np.object_]:
        """A column that is no signal (`session`, `group`, labels), one value a response in the order of `batches`.

        `missing` stands for values that are not there. Raises RecordingError when a file does not have the column,
        naming those it has, or values are not there and nothing stands for them.
        """
        import pyarrow.parquet as pq

        parts = []
        for file in self.files:
            there = [n for n in pq.read_schema(file.path).names if not n.startswith((SIGNAL_PREFIX, self.prefix))]
            if name not in there:
                names = ", ".join(there) or "none"
                raise RecordingError(f"{file.path}: has no column '{name}' (besides signals it has: {names})")
            table = pq.read_table(file.path, columns=[name])
            read = [missing if value is None else value for value in table.column(name).to_pylist()]
            values = np.array(read, dtype=object)[file.mask]
            if any(value is None for value in values):
                raise RecordingError(f"{file.path}: column '{name}' lacks values; leave those rows out, or fill them")
            parts.append(values)
        return np.concatenate(parts) if parts else np.zeros(0, object)

    def columns(self) -> set[str]:
        """The columns that every file has and that are no signals."""
        import pyarrow.parquet as pq

        signals = SIGNAL_PREFIX, self.prefix
        names = [{n for n in pq.read_schema(f.path).names if not n.startswith(signals)} for f in self.files]
        return set.intersection(*names) if names else set()

    def where(self, rows: Callable[[RecordedFile], Mask]) -> Recording:
        """The responses that `rows` picks in each file."""
        return self._of([file.keeping(rows(file)) for file in self.files])

    def finite_rows(self, masked: Collection[str] = ()) -> Recording:
        """The responses without NaN or infinity in their signals, which serving scores. In `masked` signals, -inf is
        the logarithm of a probability of 0.
        """
        files = []
        for part in self.batches():
            good = [(part[name] < np.inf if name in masked else np.isfinite(part[name])).all(axis=1) for name in part]
            files.append(np.logical_and.reduce(good))
        return self.take(np.flatnonzero(np.concatenate(files)) if files else np.zeros(0, np.intp))

    def parts(self) -> list[Recording]:
        """One recording for each file, in the order of the files."""
        return [self._of([file]) for file in self.files]

    def _columns(self) -> list[str]:
        return [self.prefix + name for name in self._shapes]

    def _of(self, files: Iterable[RecordedFile]) -> Recording:
        recording = Recording(tuple(files), self._shapes, self._free, self.prefix)
        recording.on_read = self.on_read
        return recording

    def _values(self, path: Path, name: str, table: pyarrow.Table) -> NDArray[np.float32]:
        free, shape = self._free.get(name), self._shapes[name]
        values = signal_column(path, self.prefix + name, table, free)
        if free is not None and values.ndim == len(shape) + 1:
            values = padded_rows(values, shape[free.axis], free)
        if values.shape[1:] != shape and int(np.prod(values.shape[1:])) != int(np.prod(shape)):
            raise RecordingError(f"{path}: signal '{name}' has lists of different lengths")
        return values.reshape(len(values), *shape)


def read_recording(
    path: Path | str,
    model: str | None = None,
    signals: Iterable[str] = (),
    *,
    optional: Iterable[str] = (),
    free: Mapping[str, FreeLength] | None = None,
    prefix: str = SIGNAL_PREFIX,
) -> Recording:
    """A recording: a Parquet file, or a folder of them. Only `signals`, or all there are; `optional` ones if there.

    A signal is a column named `signal.NAME` holding numbers, lists of them, or lists of lists, the same for all rows
    except along the axis in which the signal is `free`; `prefix` may begin other columns to be read so. Raises
    RecordingError: no file, no such model or signal, several models and none named, another shape than before.
    """
    require_pyarrow()
    path = Path(path)
    paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not paths or not paths[0].exists():
        raise RecordingError(f"{path}: there is no recording; `tocsin record` makes one")
    models: set[str] = set()
    files = []
    for source in paths:
        files_of_path, rows = rows_of(source, model)
        models |= files_of_path
        if rows.any():
            files.append(RecordedFile.of(source, sha256_of(source), rows))
    if model is None and len(models) > 1:
        raise RecordingError(f"{path}: holds several models ({', '.join(sorted(models))}); choose one with --model")
    if not files:
        raise RecordingError(f"{path}: holds no responses of model '{model}'")
    names = signal_names(files[0].path, list(signals), list(optional), prefix)
    free = {name: length for name, length in (free or {}).items() if name in names}
    shapes = [signal_shapes(file.path, names, free, prefix) for file in files]
    joint = dict(shapes[0])
    for file, file_shapes in zip(files, shapes, strict=True):
        for name, shape in file_shapes.items():
            joint[name] = joint_shape(file.path, files[0].path, name, joint[name], shape, free.get(name))
    return Recording(tuple(files), joint, free, prefix)


def require_pyarrow() -> None:
    """Raises ConfigError when pyarrow, which reads and writes recordings, is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ConfigError("recordings need pyarrow: pip install 'tocsin[record]'") from None
