"""The tensors of a message of the Open Inference Protocol v2 as it describes them, remembered for the next message."""

from __future__ import annotations

from typing import Any, ClassVar, Final, NamedTuple

from tocsin.protocols.descriptors import message_class
from tocsin.protocols.rows import KEPT_LAYOUTS
from tocsin.unscored import Unscored

TensorSingle = message_class("open_inference", "inference.InferTensorSingle")

SHARED_MEMORY_PARAMETER: Final = "shared_memory_region"  # the parameter of a tensor whose values are not in the message
MAX_DESCRIPTIONS: Final = 16_384  # bytes of a message's tensor descriptions that are remembered
MAX_MEMORY: Final = 4_194_304  # bytes of all that are remembered


def require_single(kind: Any, content: bytes, whose: str) -> None:
    """Raises Unscored `undecodable` where a message has a field twice that it has once."""
    for field, values in kind.FromString(content).ListFields():
        if len(values) > 1:
            raise Unscored("undecodable", f"{whose} is several messages, or has the field '{field.name}' twice")


class Tensor(NamedTuple):
    """The description of one tensor of a message: its index among the raw contents, type and shape."""

    position: int
    datatype: str
    shape: tuple[int, ...]


class TensorLayout:
    """The tensors of a message by name. Messages with equal descriptions share one layout object, where those are small
    enough to be `remembered`. `contents` is how many raw contents such a message has.
    """

    __slots__ = ("contents", "remembered", "side", "tensors")

    def __init__(self, side: str, tensors: dict[str, Tensor], contents: int, remembered: bool) -> None:
        self.side = side
        self.tensors = tensors
        self.contents = contents
        self.remembered = remembered

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name. Raises Unscored `missing_signal`, listing the tensors that exist."""
        try:
            return self.tensors[name]
        except KeyError:
            names = ", ".join(f"'{n}' {t.datatype} {list(t.shape)}" for n, t in self.tensors.items()) or "none"
            raise Unscored(
                "missing_signal", f"the {self.side} has no tensor named '{name}' (it has: {names})"
            ) from None


class TensorMessage:
    """One ModelInfer message: its model, the layout of its tensors, and the raw contents in that order."""

    __slots__ = ("empty", "layout", "model", "raw", "version")

    is_summary: ClassVar[bool] = False
    sequence: ClassVar[int] = 0

    def __init__(self, model: str, version: str, layout: TensorLayout, raw: Any) -> None:
        self.model = model
        self.version = version
        self.layout = layout
        self.raw = raw  # a sequence of bytes
        self.empty = False


class LayoutCache:
    """The remembered layouts by their descriptions, bounded in number and in bytes of descriptions."""

    def __init__(self) -> None:
        self.layouts: dict[tuple[object, ...], TensorLayout] = {}
        self.description_bytes = 0

    def learn(self, key: tuple[object, ...], size: int, side: str, tensors: Any, encoded_tensors: Any) -> TensorLayout:
        """The layout of a description that is not remembered, from then on under `key`, unless its `size` in bytes is
        too much. `side` is request or response; the same tensors come parsed and as they were encoded.

        Raises Unscored `undecodable` where tensors would be read differently by others.
        """
        for encoded_tensor in encoded_tensors:
            require_single(TensorSingle, encoded_tensor, f"a tensor of the {side}")
        by_name: dict[str, Tensor] = {}
        position = 0
        for tensor in tensors:
            if tensor.name in by_name:
                raise Unscored("undecodable", f"the {side} has two tensors named '{tensor.name}'")
            elsewhere = side == "request" and SHARED_MEMORY_PARAMETER in tensor.parameters
            by_name[tensor.name] = Tensor(-1 if elsewhere else position, tensor.datatype, tuple(tensor.shape))
            position += 0 if elsewhere else 1
        layout = TensorLayout(side, by_name, position, size <= MAX_DESCRIPTIONS)
        if layout.remembered:
            if len(self.layouts) >= KEPT_LAYOUTS or self.description_bytes + size > MAX_MEMORY:
                self.layouts.clear()
                self.description_bytes = 0
            self.layouts[key] = layout
            self.description_bytes += size
        return layout


layouts = LayoutCache()
