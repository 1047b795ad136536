"""Signals of a session's previous response, beside those of the present one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from math import prod

from tocsin.judgement.call import Call, Read
from tocsin.judgement.signal_shapes import SignalShapes
from tocsin.protocols.rows import Family, Kind
from tocsin.state.previous import PreviousStore, Update
from tocsin.unscored import Unscored

CHECK_SIZE = 8  # bytes before what is kept that say of which datatypes and shapes it is


class PreviousSignals:
    """Adds to each response the signals that its session's previous response had. `names` maps the names of added
    signals to those that they repeat. A response is previous to the next that is judged of its session, whatever became
    of it on its way to the caller.
    """

    def __init__(self, names: Mapping[str, str], shapes: SignalShapes, store: PreviousStore) -> None:
        self._names, self._shapes, self._store = dict(names), shapes, store
        self._repeated = list(dict.fromkeys(names.values()))

    @property
    def shared(self) -> bool:
        """Whether they are kept in a Redis that replicas share."""
        return self._store.shared

    def join(
        self, family: Family, batch: Sequence[Read], sessions: Sequence[str]
    ) -> tuple[Family, list[Read], list[tuple[Call, Unscored]]]:
        """A batch of responses with what their sessions' previous ones had: its family, the responses that have that,
        and the others with the reason. `sessions` are the keys of the calls' sessions.
        """
        kinds = {kind[0]: (at, kind) for at, kind in enumerate(family.signals)}
        repeated = [kinds[name] for name in self._repeated]
        check = blake2b(repr([kind for _, kind in repeated]).encode(), digest_size=CHECK_SIZE).digest()
        problem = self._problem({name: kind for name, (_, kind) in kinds.items()})
        updates: list[Update] = []
        readable: list[Read] = []
        refused: list[tuple[Call, Unscored]] = []
        for (call, rows, raws), session in zip(batch, sessions, strict=True):
            if problem:
                refused.append((call, Unscored("shape", problem)))
            elif rows != 1:
                refused.append((call, Unscored("rows", f"the response has {rows:,} rows, and a session's is one")))
            elif not session:
                refused.append((call, Unscored("no_previous", "the call names no session")))
            else:
                updates.append((session, check + b"".join([raws[at] for at, _ in repeated])))
                readable.append((call, rows, raws))
        joined: list[Read] = []
        befores = self._store.exchange(updates) if updates else []
        for (call, rows, raws), before in zip(readable, befores, strict=True):
            sizes = [len(raws[at]) for at, _ in repeated]
            if before is None or before[:CHECK_SIZE] != check or len(before) != CHECK_SIZE + sum(sizes):
                refused.append((call, Unscored("no_previous", "it is its session's first response, or the one before "
                                               "is not known any more")))  # fmt: skip
                continue
            parts, start = {}, CHECK_SIZE
            for name, size in zip(self._repeated, sizes, strict=True):
                parts[name] = before[start : start + size]
                start += size
            joined.append((call, rows, [*raws, *(parts[name] for name in self._names.values())]))
        more = tuple((name, *kinds[of][1][1:]) for name, of in self._names.items())
        return self._shapes.family((*family.signals, *more)), joined, refused

    def forget(self, session: str) -> None:
        """A response of that session has come whose signals are not known."""
        if session:
            self._store.drop(session)

    def _problem(self, kinds: Mapping[str, Kind]) -> str:
        """Why signals of these shapes cannot be added; empty where they can."""
        for name, of in self._names.items():
            if misfit := self._shapes.misfit(name, prod(kinds[of][2])):
                return misfit
        return ""
