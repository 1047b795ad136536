"""Reading a recording, for fit and calibrate."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.errors import ConfigError, RecordingError
from tocsin_detectors import Observations

if TYPE_CHECKING:
    import pyarrow


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
