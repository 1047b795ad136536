"""A guarded model: where its signals stand, and the bundle that judges them."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tocsin.config_fields import VERSION
from tocsin.errors import ConfigError
from tocsin.judgement.call import Call
from tocsin.judgement.judge import Judge
from tocsin.model_config import ModelConfig
from tocsin.protocols import oip
from tocsin.unscored import Unscored
from tocsin_calibration import Bundle

Rows = dict[str, NDArray[np.float32]]
Kind = tuple[str, str, tuple[int, ...]]  # a signal's name, datatype and one row's shape


class Family:
    """Plans of one model whose rows can be stacked: each signal's name, datatype and one row's shape."""

    def __init__(self, model: str, signals: tuple[Kind, ...]) -> None:
        self.model = model
        self.shapes = {name: shape for name, _, shape in signals}
        self._signals = [(name, datatype, _product(shape)) for name, datatype, shape in signals]
        datatypes = {datatype for _, datatype, _ in signals}
        self._datatype = datatypes.pop() if len(datatypes) == 1 else None

    def stack(self, raws: list[list[bytes]]) -> Rows:
        """The signals of several responses, (rows of all, width), from their raw contents, a list a response."""
        columns = list(zip(*raws, strict=True))
        if self._datatype is None:
            return {
                name: oip.to_float32(b"".join(column), datatype).reshape(-1, width)
                for (name, datatype, width), column in zip(self._signals, columns, strict=True)
            }
        # All of one datatype, as models usually answer: converted at once, each signal a part of one array.
        values = oip.to_float32(b"".join(chain.from_iterable(columns)), self._datatype)
        rows = len(values) // sum(width for _, _, width in self._signals)
        stacked, start = {}, 0
        for name, _, width in self._signals:
            stacked[name] = values[start : (start := start + rows * width)].reshape(rows, width)
        return stacked


class Place(NamedTuple):
    """Where one signal's bytes stand."""

    in_request: bool
    position: int
    size: int  # bytes


class Plan(NamedTuple):
    """How to read all signals from messages of given layouts: one place a signal."""

    places: tuple[Place, ...]
    rows: int
    family: Family


class GuardedModel:
    """One model of the configuration. Raises ConfigError when bundle and configuration do not fit each other."""

    def __init__(self, name: str, config: ModelConfig, *, threads: int = 1) -> None:
        self.name = name
        self.config = config
        self.session = (config.session or "").removeprefix("metadata.")
        self.group = (config.group or "").removeprefix("metadata.")
        self.bundle = None if config.bundle is None else Bundle.read(config.bundle, threads=threads)
        wanted = self.bundle.scorer.signals if self.bundle else dict.fromkeys(config.signals, 0)
        for signal in wanted:
            if signal not in config.signals:
                raise ConfigError(
                    f"models.{name}.signals: the bundle's detectors read '{signal}', which is not mapped; add "
                    f"'{signal}: response.outputs.NAME'"
                )
        if self.bundle is not None:
            self.promise = self.bundle.require_promise(config.bundle or "the bundle")
            self.scorer = self.bundle.scorer
            self.digest = self.bundle.digest
            self.swallowed = self.scorer.swallowed()
            self.judge = Judge(name, config, self.bundle)
        # (signal, side, tensor, width); width 0 = any, as while recording
        self._paths = [(signal, *config.signals[signal], width) for signal, width in wanted.items()]
        self.wants_request = any(side == "request" for _, side, _, _ in self._paths)
        self._plans: dict[tuple[oip.Layout, oip.Layout | None], Plan] = {}
        self._families: dict[tuple[Kind, ...], Family] = {}

    def group_of(self, call: Call) -> str:
        """The group that a call's responses belong to, nothing where none is configured."""
        return call.version if self.group == VERSION else call.keys.get(self.group, "")

    def session_of(self, call: Call) -> str:
        """The session that a call belongs to, nothing where none is configured or told."""
        return call.keys.get(self.session, "")

    def read(self, response: oip.Message, request: bytes | None) -> tuple[Plan, list[bytes]]:
        """How many rows the response has, how to stack them, and each signal's raw contents. Raises Unscored."""
        shown, asked_layout, asked = response.raw, None, response.raw
        if self.wants_request:
            if request is None:
                raise Unscored("missing_signal", "there is no request to read a signal from")
            message = oip.read_request(request)
            asked_layout, asked = message.layout, message.raw
        plan = self._plans.get((response.layout, asked_layout))
        if plan is None:
            plan = self._plan(response.layout, asked_layout)
        raws = []
        try:
            for in_request, position, size in plan.places:
                content = (asked if in_request else shown)[position]
                if len(content) != size:
                    raise Unscored("shape", f"a tensor holds {len(content)} bytes where its shape says {size}")
                raws.append(content)
        except IndexError:
            raise Unscored("shape", "there are fewer raw contents than tensors") from None
        return plan, raws

    def _plan(self, response: oip.Layout, request: oip.Layout | None) -> Plan:
        places, signals, counts = [], [], {}
        for signal, side, name, width in self._paths:
            layout = response if side == "response" else request
            assert layout is not None
            tensor = layout.tensor(name)
            size = oip.item_size(tensor, name)
            values = _product(tensor.shape)
            batched = bool(tensor.shape) and values != width  # else one response, by a model without a batch axis
            rows, shape = (tensor.shape[0], tensor.shape[1:] or (1,)) if batched else (1, tensor.shape or (1,))
            if min(tensor.shape, default=1) < 0:
                raise Unscored("shape", f"tensor '{name}' has the shape {list(tensor.shape)}")
            if rows and self.bundle and (told := self.scorer.misfit(signal, _product(shape))):
                raise Unscored("shape", told)
            counts[signal] = rows
            places.append(Place(side == "request", tensor.position, values * size))
            signals.append((signal, tensor.datatype, shape))
        if len(set(counts.values())) != 1 or not next(iter(counts.values())):
            told = ", ".join(f"{count} rows of '{signal}'" for signal, count in counts.items())
            raise Unscored("rows", f"the response has {told}; each response needs one row of each")
        key = tuple(signals)
        family = self._families.setdefault(key, Family(self.name, key))
        if len(self._plans) >= oip.KEPT_LAYOUTS:
            self._plans.clear()
        plan = Plan(tuple(places), next(iter(counts.values())), family)
        self._plans[response, request] = plan
        return plan


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
