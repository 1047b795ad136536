"""Signals that an ONNX model of the user's computes from other signals, inside the scorer's graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tocsin_detectors.errors import SignalError
from tocsin_detectors.free_length import FreeLength
from tocsin_detectors.observation import FittingData, Observations

if TYPE_CHECKING:
    from spox import Var

RUN = 64  # rows through the model at once while fitting


class Features:
    """The signal `name`, computed by an ONNX model from signals of the response or the request.

    A text or image embedder, a scaler, a projection: what the detectors then read is `name`. The model's inputs take
    the signals of their own names, or those that `inputs` maps them to; a signal is cast to the input's type and
    shaped like it. `output` is the model's first, unless told. Its shape must be (n, ...); axes after the first are
    flattened. An input without a fixed shape, such as token ids, is of free length, filled up with `padding` while
    fitting: the model must not care (give it its attention mask).

    Raises SignalError when the file is no ONNX model, lacks the output, or takes batches of one size only.
    """

    def __init__(
        self,
        name: str,
        model: Path | str | bytes,
        *,
        inputs: Mapping[str, str] | None = None,
        output: str | None = None,
        padding: float = 0,
    ) -> None:
        import onnx

        from tocsin_detectors.onnx_runtime import onnxruntime

        description = "the model" if isinstance(model, bytes) else str(model)
        try:
            self._model = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
            content = self._model.SerializeToString()
            self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        except Exception as error:  # protobuf, onnx and ONNX Runtime each raise their own
            raise SignalError(f"features '{name}': {description} cannot be loaded: {error}") from error
        outputs = [node.name for node in self._session.get_outputs()]
        if output is not None and output not in outputs:
            raise SignalError(
                f"features '{name}': {description} has no output '{output}' (it has: {', '.join(outputs)})"
            )
        self.name = name
        self.output = output or outputs[0]
        self._inputs = self._session.get_inputs()
        input_names = {node.name for node in self._inputs}
        for chosen in inputs or {}:
            if chosen not in input_names:
                raise SignalError(
                    f"features '{name}': {description} has no input '{chosen}' (it has: {', '.join(input_names)})"
                )
        self.reads = tuple((inputs or {}).get(node.name, node.name) for node in self._inputs)
        self._description = description
        self._require_free_batch()
        fixed = all(isinstance(size, int) for node in self._inputs for size in node.shape[1:])
        self.free_length = None if fixed else FreeLength(padding)

    def compute(self, signals: Observations) -> NDArray[np.float32]:
        """The signal of each response, (n, width)."""
        parts = []
        for start in range(0, signals.rows, RUN):
            rows = signals.take(slice(start, start + RUN))
            fed = {
                node.name: rows[signal].reshape(rows.rows, *_sizes(node.shape)).astype(_dtype(node.type))
                for node, signal in zip(self._inputs, self.reads, strict=True)
            }
            try:
                computed = self._session.run([self.output], fed)[0].reshape(rows.rows, -1)
            except Exception as error:  # ONNX Runtime raises a dozen types of its own
                raise SignalError(
                    f"features '{self.name}': {self._description} cannot compute {rows.rows} rows of "
                    f"{', '.join(self.reads)}: "
                    f"{error}"
                ) from error
            parts.append(computed.astype(np.float32))
        return np.concatenate(parts)

    def _require_free_batch(self) -> None:
        """Raises SignalError where an input's first axis, or the output's, has a fixed size."""
        output = next(node for node in self._session.get_outputs() if node.name == self.output)
        for kind, node in [*(("input", graph_input) for graph_input in self._inputs), ("output", output)]:
            if node.shape and isinstance(node.shape[0], int):
                raise SignalError(
                    f"features '{self.name}': {self._description} takes batches of {node.shape[0]} only (its {kind} "
                    f"'{node.name}' has the shape {node.shape}); export it with a free first axis (`dynamic_axes` "
                    f"or `dynamic_shapes` of torch.onnx.export)"
                )

    def graph(self, *signals: Var) -> Var:
        """(n, width) each -> (n, width of the output)."""
        import spox
        import spox.opset.ai.onnx.v18 as op

        fed = {}
        for node, signal in zip(self._inputs, signals, strict=True):
            shaped = signal
            if len(node.shape) != 2:
                shaped = op.reshape(signal, op.const(np.array((0, *_sizes(node.shape)), np.int64)))
            kind = _dtype(node.type)
            fed[node.name] = shaped if kind == np.float32 else op.cast(shaped, to=kind)
        computed = spox.inline(self._model)(**fed)[self.output]
        return op.flatten(op.cast(computed, to=np.float32), axis=1)


def parse_features(spec: str) -> Features:
    """Features from text: SIGNAL=FILE.onnx, with ,INPUT=SIGNAL and ,output=NAME and ,padding=NUMBER where needed.

    Raises SignalError.
    """
    first, *rest = spec.split(",")
    name, _, file = first.partition("=")
    if not name or not file:
        raise SignalError(f"features are given as SIGNAL=FILE.onnx, not '{spec}'")
    settings = dict(part.partition("=")[::2] for part in rest)
    output, padding = settings.pop("output", None), settings.pop("padding", "0")
    return Features(name, Path(file), inputs=settings, output=output, padding=float(padding))


def with_features(safe: FittingData, features: Sequence[Features], wanted: Sequence[str]) -> FittingData:
    """The responses with the signals of `features` added, computed once and kept in memory with the others `wanted`."""
    if not features:
        return safe
    feature_names = {feature.name for feature in features}
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
    for batch in safe.batches():
        extended = _extended(batch, features)
        for name in wanted:
            columns[name].append(extended[name].reshape(-1, *extended.shape(name)))
    if missing := feature_names - set(wanted):
        raise SignalError(f"no detector reads the features '{', '.join(sorted(missing))}'")
    return Observations({name: np.concatenate(parts) for name, parts in columns.items()})


def _extended(batch: Observations, features: Sequence[Features]) -> Observations:
    for feature in features:
        columns = {name: batch[name].reshape(-1, *batch.shape(name)) for name in batch}
        batch = Observations({**columns, feature.name: feature.compute(batch)})
    return batch


def _sizes(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    """An input's axes after the first; -1 where it has no fixed size."""
    return tuple(size if isinstance(size, int) else -1 for size in shape[1:])


def _dtype(kind: str) -> np.dtype[Any]:
    """The numpy type of an ONNX Runtime input such as tensor(int64)."""
    names = {"float": "float32", "double": "float64"}
    name = kind.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(names.get(name, name))
    except TypeError:
        raise SignalError(f"a model's input is {kind}, which no numeric signal can feed") from None
