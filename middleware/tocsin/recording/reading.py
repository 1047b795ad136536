"""Reads a recording batch by batch, however large it is, for fit and calibrate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import ConfigError, RecordingError
from tocsin.recording.columns import declared_shape, padded_rows, to_array
from tocsin_detectors import FittingData, Observations, SignalError
from tocsin_detectors.free_length import FreeLength
from tocsin_detectors.observation import BATCH

if TYPE_CHECKING:
    import pyarrow

Mask = NDArray[np.bool_]
Shape = tuple[int, ...]
SIGNAL_PREFIX = "signal."  # begins the name of a signal's column
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
            for start, table in _tables(file.path, self._columns(), shuffle):
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
        values = _column(path, self.prefix + name, table, free)
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
        files_of_path, rows = _rows_of(source, model)
        models |= files_of_path
        if rows.any():
            files.append(RecordedFile.of(source, _sha256(source), rows))
    if model is None and len(models) > 1:
        raise RecordingError(f"{path}: holds several models ({', '.join(sorted(models))}); choose one with --model")
    if not files:
        raise RecordingError(f"{path}: holds no responses of model '{model}'")
    names = _names(files[0].path, list(signals), list(optional), prefix)
    free = {name: length for name, length in (free or {}).items() if name in names}
    shapes = [_shapes(file, names, free, prefix) for file in files]
    joint = dict(shapes[0])
    for file, file_shapes in zip(files, shapes, strict=True):
        for name, shape in file_shapes.items():
            joint[name] = _joint(file.path, files[0].path, name, joint[name], shape, free.get(name))
    return Recording(tuple(files), joint, free, prefix)


def _rows_of(path: Path, model: str | None) -> tuple[set[str], Mask]:
    """The models in a file, and which of its rows are the model's."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import compute

    try:
        with pq.ParquetFile(path) as file:
            if "model" not in file.schema_arrow.names:
                return set(), np.ones(file.metadata.num_rows, bool)
            column = file.read(["model"]).column("model")
    except (OSError, pa.ArrowException) as error:
        raise RecordingError(f"{path}: is no Parquet file ({error})") from error
    models = set(column.unique().to_pylist())
    if model is None:
        return models, np.ones(len(column), bool)
    return models, np.asarray(compute.fill_null(compute.equal(column, model), False))


def _names(path: Path, signals: list[str], optional: list[str], prefix: str) -> list[str]:
    import pyarrow.parquet as pq

    kind = prefix.removesuffix(".")
    there = [n.removeprefix(prefix) for n in pq.read_schema(path).names if n.startswith(prefix)]
    for signal in signals or there or ["?"]:
        if signal not in there:
            names = ", ".join(there) or f"none; {kind}s are columns named {prefix}NAME"
            other = "; tocsin convert reads tables whose columns have other names" if prefix == SIGNAL_PREFIX else ""
            raise RecordingError(f"{path}: has no {kind} '{signal}' (it has: {names}){other}")
    return list(dict.fromkeys([*(signals or there), *(name for name in optional if name in there)]))


def _shapes(file: RecordedFile, names: list[str], free: Mapping[str, FreeLength], prefix: str) -> dict[str, Shape]:
    """Each signal's shape in a file: as in its first rows, and as long as the longest along a free axis."""
    shapes: dict[str, Shape] = {}
    for _, table in _tables(file.path, [prefix + name for name in names], None):
        for name in names:
            shape = _column(file.path, prefix + name, table, free.get(name)).shape[1:] or (1,)
            before = shapes.get(name, shape)
            shapes[name] = _joint(file.path, file.path, name, before, shape, free.get(name))
        if not free:
            break
    return shapes


def _joint(path: Path, first: Path, name: str, before: Shape, shape: Shape, free: FreeLength | None) -> Shape:
    """The shape that holds both. Raises RecordingError when they differ in an axis that is not free."""
    if free is not None and len(shape) == len(before) > free.axis:
        longest = max(shape[free.axis], before[free.axis])
        joint = tuple(longest if axis == free.axis else size for axis, size in enumerate(before))
        if joint == tuple(longest if axis == free.axis else size for axis, size in enumerate(shape)):
            return joint
    elif np.prod(shape) == np.prod(before):
        return max(before, shape, key=len)
    raise RecordingError(f"{path}: signal '{name}' has the shape {list(shape)}, but {list(before)} in {first.name}")


def _tables(
    path: Path, columns: Sequence[str], shuffle: np.random.Generator | None
) -> Iterator[tuple[int, pyarrow.Table]]:
    """A file's columns in batches, each with the number of its first row; row groups in any order when shuffled."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        order: Any = range(len(sizes)) if shuffle is None else shuffle.permutation(len(sizes))
        for group in order:
            start = int(starts[group])
            for batch in file.iter_batches(BATCH, [int(group)], list(columns)):
                yield start, pa.Table.from_batches([batch])
                start += len(batch)


def _column(path: Path, column: str, table: pyarrow.Table, free: FreeLength | None) -> NDArray[np.float32]:
    kind, _, name = column.partition(".")
    if column not in table.column_names:
        raise RecordingError(
            f"{path}: has no {kind} '{name}', which other files of the recording have; a bundle reads the same signals "
            f"of every response: give methods that answer with others a protocol and a model each, and record again"
        )
    where = f"{path}: {kind} '{name}'"
    return to_array(table.column(column), where, declared_shape(table.schema.field(column)), free)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_pyarrow() -> None:
    """Raises ConfigError when pyarrow, which reads and writes recordings, is not installed."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ConfigError("recordings need pyarrow: pip install 'tocsin[record]'") from None
