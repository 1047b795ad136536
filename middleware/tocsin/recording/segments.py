"""Files of a recording: Parquet, written whole or not at all, for nobody but their owner to read."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import RecordingError
from tocsin.recording.columns import SHAPE

if TYPE_CHECKING:
    import pyarrow

Keys = tuple[float, str, str, str, str]  # of a row: time in seconds since 1970, version, method, session, group


def make_folder(folder: Path) -> None:
    """Make a folder for a recording where it is not there. Raises RecordingError when it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"{folder}: cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RecordingError(f"{folder}: cannot be written to")


def file_stem(model: str) -> str:
    """A model's name as the beginning of a file's: another one for every model."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", model)
    return stem if stem == model else f"{stem}-{zlib.crc32(model.encode('utf-8', 'surrogatepass')):08x}"


def key_columns(model: str, keys: Sequence[Keys]) -> dict[str, pyarrow.Array]:
    """The columns that say whose rows they are."""
    import pyarrow as pa

    times, versions, methods, sessions, groups = zip(*keys, strict=True)
    return {
        "time": pa.array((np.array(times) * 1e6).astype("datetime64[us]")),
        "model": pa.array([model] * len(times)),
        "version": pa.array(versions),
        "method": pa.array(methods),
        "session": pa.array(sessions),
        "group": pa.array(groups),
    }


def fixed_column(values: NDArray[np.float32]) -> pyarrow.Array:
    """A signal of rows of one width, from (rows, width)."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def nested_column(
    values: Sequence[NDArray[np.float32]], shapes: Sequence[tuple[int, ...]], varying: Collection[int]
) -> pyarrow.Array:
    """A signal as lists of lists, one a row; the lengths of the `varying` axes differ between rows."""
    import pyarrow as pa

    items = pa.array(np.concatenate(values))
    for axis in reversed(range(len(shapes[0]))):
        if axis not in varying:
            items = pa.FixedSizeListArray.from_arrays(items, shapes[0][axis])
            continue
        counts = [int(np.prod(shape[:axis], dtype=int)) for shape in shapes]
        lengths = np.repeat([shape[axis] for shape in shapes], counts)
        items = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), items)
    return items


def table_of(columns: Mapping[str, pyarrow.Array], shapes: Mapping[str, tuple[int, ...]]) -> pyarrow.Table:
    """Columns as a table; `shapes` are those of a row in flat columns of signals."""
    import pyarrow as pa

    marks = {f"signal.{name}": {SHAPE: ",".join(map(str, shape)).encode()} for name, shape in shapes.items()}
    schema = pa.schema(pa.field(name, column.type, metadata=marks.get(name)) for name, column in columns.items())
    return pa.Table.from_arrays(list(columns.values()), schema=schema)


def write_file(final: Path, tables: Iterable[pyarrow.Table]) -> None:
    """Write tables of one schema in place of a file at once, readable by its owner alone: it holds what a model has
    answered. Raises OSError; then what was there before is still there.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    staged = final.with_suffix(".part")
    try:
        with open(staged, "wb", opener=_for_owner) as file:
            pq.write_table(pa.concat_tables(tables), file)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(final)
    except OSError:
        staged.unlink(missing_ok=True)
        raise


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
