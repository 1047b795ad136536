"""The path of a signal in a call, as users write it: `response.outputs.probs`, or packed bytes with their type."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

BEST = "best"  # the token at which the choices together are likeliest

METADATA, INITIAL, TRAILING = "metadata", "initial_metadata", "trailing_metadata"  # the request's, the response's two

PREVIOUS = "previous"  # the side of a signal that a session's previous response had
_SIDES = ("request", "response")
_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_TOKEN = re.compile(r"(\$(?=[\[.]|$)|[A-Za-z_][A-Za-z0-9_]*)((?:\[[^\]]*\])*)(?:\.|$)")
_INDEX = re.compile(r"\[([^\]]*)\]")


class SignalPath(NamedTuple):
    """A signal's place: its side, `request` or `response`, and the path of its values there; `a | b` takes `a`, or `b`
    where `a` is empty. A score in metadata has one of the sides METADATA, INITIAL and TRAILING, and the key as its
    path. `dtype` and `shape` are given for values packed as bytes: a datatype or the path of one; the path of a shape,
    or a shape. `choices`: token ids by choice, whose probabilities are read at the token `at`; `order` is the metadata
    key that tells in which order a call shows them. `sequences`: parallel answers become rows, `padded` or each the
    `sum` of its values. `said` and `ranks`: the path tells the likeliest tokens of each place but the one that was
    said, which stands in `said`, at that rank from 1 among all. `container` and `tensor`: the path is one of bytes that
    are safetensors or npz, and the values those of the tensor of that name in it. On the side PREVIOUS, the path is the
    name of another signal, whose value in the session's previous response this one is.
    """

    side: str
    path: str
    dtype: str = ""
    shape: str | tuple[int, ...] = ()
    choices: tuple[tuple[int, ...], ...] = ()
    at: int | str = 0
    order: str = ""
    sequences: str = ""
    said: str = ""
    ranks: str = ""
    container: str = ""
    tensor: str = ""

    def __str__(self) -> str:
        return f"{self.side}.{self.path}"

    @property
    def named_keys(self) -> int:
        """How many keys of a map make up the whole signal, as in `probabilities[cat,dog]`; 0 where they do not."""
        keys = None if self.is_derived or self.shape else re.fullmatch(r"[^|\[\]]*\[([^\[\]]*,[^\[\]]*)\]", self.path)
        return 0 if keys is None else keys[1].count(",") + 1

    @property
    def is_derived(self) -> bool:
        """Whether its values are computed from what is at the path."""
        return bool(self.dtype or self.choices or self.sequences or self.said or self.container)

    @property
    def is_previous(self) -> bool:
        """Whether it is a signal of the session's previous response."""
        return self.side == PREVIOUS

    @property
    def is_metadata(self) -> bool:
        """Whether it is a score in the metadata of calls, not in their messages."""
        return self.side in (METADATA, INITIAL, TRAILING)


class Step(NamedTuple):
    """One field of a path and what is taken of it: nothing more, an axis (`[]`), rows (`[*]`), an index or a key."""

    field: str
    takes: tuple[str, ...] = ()


def signal_path(value: Any) -> SignalPath:
    """Parse the path of a signal. Raises ValueError with what was expected."""
    if isinstance(value, SignalPath):
        return value
    if isinstance(value, dict) and PREVIOUS in value:
        if value.keys() != {PREVIOUS} or not isinstance(value[PREVIOUS], str) or not value[PREVIOUS].isidentifier():
            raise ValueError("write a signal of the session's previous response as {previous: SIGNAL}")
        return SignalPath(PREVIOUS, value[PREVIOUS])
    if isinstance(value, dict) and "choices" in value:
        return _choices(value)
    if isinstance(value, dict) and "others" in value:
        if value.keys() != {"others", "said", "ranks"}:
            raise ValueError(
                "write the likeliest tokens besides the sampled one as {others: PATH, said: PATH, ranks: PATH}"
            )
        said, ranks = (signal_path(value[key]) for key in ("said", "ranks"))
        return signal_path(value["others"])._replace(said=said.path, ranks=ranks.path)
    if isinstance(value, dict) and "sequences" in value:
        if value.keys() - {"sequences", "sum"} or not isinstance(value.get("sum", False), bool):
            raise ValueError("write parallel answers as {sequences: PATH}, or {sequences: PATH, sum: true}")
        return signal_path(value["sequences"])._replace(sequences="sum" if value.get("sum") else "padded")
    if isinstance(value, dict) and value.keys() & {"safetensors", "npz"}:
        container = "safetensors" if "safetensors" in value else "npz"
        if value.keys() != {container, "tensor"} or not isinstance(value["tensor"], str) or not value["tensor"]:
            raise ValueError(f"write a tensor in a field of bytes as {{{container}: PATH, tensor: NAME}}")
        return signal_path(value[container])._replace(container=container, tensor=value["tensor"])
    if isinstance(value, dict):
        strange = value.keys() - {"bytes", "dtype", "shape"}
        if strange or "bytes" not in value or "dtype" not in value:
            raise ValueError("write packed bytes as {bytes: PATH, dtype: TYPE or PATH, shape: PATH or [..]}")
        inner = signal_path(value["bytes"])
        shape = value.get("shape", ())
        if isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape):
            return inner._replace(dtype=str(value["dtype"]), shape=tuple(shape))
        if not isinstance(shape, str | tuple):
            raise ValueError(f"shape: expected the path of a field or a list of lengths, not '{shape}'")
        return inner._replace(dtype=str(value["dtype"]), shape=shape)
    side, dot, path = str(value).partition(".")
    if side in (METADATA, INITIAL, TRAILING):
        if not _METADATA_KEY.fullmatch(path) or path.endswith("-bin"):
            raise ValueError(f"expected {side}.KEY with a lower-case key of a text value (not -bin), not '{value}'")
        return SignalPath(side, path)
    if side not in _SIDES or not dot or not path:
        raise ValueError(
            f"expected request.inputs.NAME or response.outputs.NAME, or the path of a field in request or response, "
            f"not '{value}'; a score in metadata is {METADATA}.KEY, {INITIAL}.KEY or {TRAILING}.KEY"
        )
    return SignalPath(side, "|".join(part.strip().removeprefix(f"{side}.") for part in path.split("|")))


def _choices(value: dict[str, Any]) -> SignalPath:
    """Choices among tokens: `{choices: [[330, 49], [389]], at: 0}`."""
    labels, at = value["choices"], value.get("at", 0)
    listed = isinstance(labels, list) and all(
        isinstance(ids, list | int) and not isinstance(ids, bool) for ids in labels
    )
    choices = [ids if isinstance(ids, list) else [ids] for ids in labels] if listed else []
    are_token_ids = all(ids and all(isinstance(token, int) for token in ids) for ids in choices)
    place = at == BEST or (isinstance(at, int) and not isinstance(at, bool))
    order = str(value.get("order", "metadata."))
    place = place and order.startswith("metadata.")
    if value.keys() - {"choices", "at", "order"} or len(choices) < 2 or not are_token_ids or not place:
        raise ValueError(
            "write choices as {choices: [[330, 49], [389]], at: 0}: the token ids of two choices or more, and which "
            f"token of the answer tells the choice (0 is the first, or '{BEST}'); order, if given, is metadata.KEY"
        )
    return SignalPath(
        "response", "", choices=tuple(tuple(ids) for ids in choices), at=at, order=order.partition(".")[2]
    )


def steps(path: str) -> list[Step]:
    """The steps of one path. Raises ValueError where it is invalid."""
    result, at = [], 0
    while at < len(path):
        match = _TOKEN.match(path, at)
        if match is None:
            raise ValueError(
                f"'{path}' is no path of fields, such as outputs.probs, tokens[].logprob or rows[*].values"
            )
        result.append(Step(match[1], tuple(_INDEX.findall(match[2]))))
        at = match.end()
    if not result or path.endswith("."):
        raise ValueError(f"'{path}' is no path of fields")
    return result
