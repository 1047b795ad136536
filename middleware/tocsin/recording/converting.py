"""Makes a recording from a table with any column names: Parquet, CSV or npz."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import RecordingError
from tocsin.recording.columns import SHAPE, to_array
from tocsin.recording.parquet_files import SIGNAL_PREFIX
from tocsin.recording.reading import require_pyarrow

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = ".parquet, .csv or .npz"
KEYS = ("session", "group", "version", "model")  # columns of text that a recording may have


def convert_table(source: Path, out: Path, signals: Mapping[str, str], keys: Mapping[str, str]) -> int:
    """Write `out`, a Parquet file that every command reads as a recording; how many responses it has.

    `signals` name, for each signal, the column that holds it: numbers, or lists of numbers; or several columns that
    are put side by side (`p0,p1,p2`, or `p*` for all that begin so, in the file's order). `keys` name the columns of
    `session`, `group`, `version` and `model`. Raises RecordingError: no such file or column, another kind of file,
    columns of different lengths, no numbers.
    """
    require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not signals:
        raise RecordingError("name at least one signal: --signal NAME=COLUMN")
    columns = columns_of(source)
    written: dict[str, pa.Array] = {}
    fields = []
    for key, column in keys.items():
        written[key] = _text(source, columns, column)
        fields.append(pa.field(key, pa.string()))
    for name, wanted in signals.items():
        values = _signal(source, columns, wanted)
        flat = values.reshape(len(values), -1)
        written[SIGNAL_PREFIX + name] = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])
        shape = ",".join(map(str, values.shape[1:])).encode()
        described = {SHAPE: shape} if values.ndim > 2 else None
        fields.append(pa.field(SIGNAL_PREFIX + name, written[SIGNAL_PREFIX + name].type, metadata=described))
    lengths = {name: len(column) for name, column in written.items()}
    if len(set(lengths.values())) > 1:
        raise RecordingError(
            f"{source}: columns of different lengths: {', '.join(f'{n} {k}' for k, n in lengths.items())}"
        )
    try:
        pq.write_table(pa.Table.from_arrays(list(written.values()), schema=pa.schema(fields)), out)
    except OSError as error:
        raise RecordingError(f"{out}: cannot be written: {error.strerror or error}") from error
    return next(iter(lengths.values()))


def columns_of(source: Path) -> dict[str, pyarrow.ChunkedArray | NDArray[np.generic]]:
    """The columns of a file by name."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import csv

    try:
        match source.suffix:
            case ".parquet":
                table = pq.read_table(source)
            case ".csv":
                table = csv.read_csv(source)
            case ".npz":
                with np.load(source, allow_pickle=False) as arrays:
                    return {name: arrays[name] for name in arrays.files}
            case suffix:
                raise RecordingError(f"{source}: what ends in '{suffix}' cannot be read; it must be {SUFFIXES}")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RecordingError(f"{source}: cannot be read: {error}") from error
    return {name: table.column(name) for name in table.column_names}


def _signal(
    source: Path, columns: Mapping[str, pyarrow.ChunkedArray | NDArray[np.generic]], wanted: str
) -> NDArray[np.float32]:
    """The values of one signal, (rows, ...)."""
    names = []
    for pattern in wanted.split(","):
        matching = [pattern] if pattern in columns else [name for name in columns if fnmatchcase(name, pattern)]
        if not matching:
            raise RecordingError(f"{source}: has no column '{pattern}' (it has: {', '.join(columns)})")
        names += matching
    parts = [_array(source, name, columns[name]) for name in names]
    if len(parts) == 1:
        return parts[0]
    rows = {len(part) for part in parts}
    if len(rows) > 1:
        raise RecordingError(f"{source}: the columns of '{wanted}' have different lengths: {sorted(rows)}")
    return np.column_stack([part.reshape(len(part), -1) for part in parts])


def _array(source: Path, name: str, column: pyarrow.ChunkedArray | NDArray[np.generic]) -> NDArray[np.float32]:
    where = f"{source}: column '{name}'"
    if isinstance(column, np.ndarray):
        if not (np.issubdtype(column.dtype, np.number) or column.dtype == np.bool_) or not column.ndim:
            raise RecordingError(f"{where} is {column.dtype} of shape {list(column.shape)}, not numbers by row")
        return column.astype(np.float32)
    return to_array(column, where, None, None)


def _text(source: Path, columns: Mapping[str, pyarrow.ChunkedArray | NDArray[np.generic]], name: str) -> pyarrow.Array:
    import pyarrow as pa

    if name not in columns:
        raise RecordingError(f"{source}: has no column '{name}' (it has: {', '.join(columns)})")
    column = columns[name]
    return pa.array(
        [str(value) for value in (column.tolist() if isinstance(column, np.ndarray) else column.to_pylist())]
    )
