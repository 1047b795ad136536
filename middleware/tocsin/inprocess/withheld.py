"""The error that callers of a guarded channel see when an answer is withheld."""

from __future__ import annotations

from typing import Any

import grpc

from tocsin.inprocess.capture import with_verdict
from tocsin.judgement.call import Call
from tocsin.judgement.policy import Replacement


class Withheld(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    """A status that took the place of a response; the verdict is in its trailing metadata."""

    def __init__(self, instead: Replacement, call: Call, inner: Any) -> None:
        super().__init__(f"{instead.status.name}: {instead.message}")
        self._instead = instead
        self._call = call
        self._inner = inner

    def code(self) -> grpc.StatusCode:
        return self._instead.status

    def details(self) -> str:
        return self._instead.message

    def trailing_metadata(self) -> Any:
        return tuple(with_verdict(None, self._call, self._instead))

    def initial_metadata(self) -> Any:
        return self._inner.initial_metadata()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> None:
        return None

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Any) -> bool:
        return False


def withheld_aio(instead: Replacement, call: Call) -> grpc.aio.AioRpcError:
    """The same for grpc.aio."""
    trailing = grpc.aio.Metadata(*with_verdict(None, call, instead))
    return grpc.aio.AioRpcError(instead.status, grpc.aio.Metadata(), trailing, instead.message)
