"""The errors that callers of a guarded channel see: where an answer is withheld, and where a call failed by itself."""

from __future__ import annotations

from typing import Any

import grpc

from tocsin.inprocess.capture import verdicts_in, with_verdict, without_verdicts
from tocsin.judgement.call import Call
from tocsin.judgement.policy import Replacement


def status_code(instead: Replacement) -> grpc.StatusCode:
    """The status that took the place of a response, as grpcio has it."""
    return grpc.StatusCode[instead.status.name]


class _EndedCall(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[misc]
    """An error that is its call, and a future that has failed, as those of grpcio are: interceptors ask it as one."""

    def cancelled(self) -> bool:
        return False

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> Any:
        raise self

    def exception(self, timeout: float | None = None) -> Any:
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        return self.__traceback__

    def add_done_callback(self, fn: Any) -> None:
        fn(self)

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> None:
        return None

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Any) -> bool:
        return False


class Withheld(_EndedCall):
    """A status that took the place of a response; the verdict is in its trailing metadata."""

    def __init__(self, instead: Replacement, call: Call, inner: Any) -> None:
        super().__init__(f"{instead.status.name}: {instead.message}")
        self._instead = instead
        self._call = call
        self._inner = inner

    def code(self) -> grpc.StatusCode:
        return status_code(self._instead)

    def details(self) -> str:
        return self._instead.message

    def trailing_metadata(self) -> Any:
        return tuple(with_verdict(None, self._call, self._instead))

    def initial_metadata(self) -> Any:
        return tuple(without_verdicts(self._inner.initial_metadata()))


class Failed(_EndedCall):
    """A call that failed by itself, without the verdict that the server wrote."""

    def __init__(self, error: Any) -> None:
        super().__init__(str(error))
        self._error = error

    def code(self) -> Any:
        return self._error.code()

    def details(self) -> Any:
        return self._error.details()

    def debug_error_string(self) -> str:
        """What grpcio says of it."""
        return str(self._error.debug_error_string())

    def trailing_metadata(self) -> Any:
        return tuple(without_verdicts(self._error.trailing_metadata()))

    def initial_metadata(self) -> Any:
        return tuple(without_verdicts(self._error.initial_metadata()))


def without_verdict(error: Any) -> Any:
    """A call's error, whose trailing metadata may not hold a verdict that nobody here has made."""
    trailing = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    return Failed(error) if verdicts_in(trailing) else error


def withheld_aio(instead: Replacement, call: Call) -> grpc.aio.AioRpcError:
    """The status that took the place of a response, for grpc.aio."""
    trailing = grpc.aio.Metadata(*with_verdict(None, call, instead))
    return grpc.aio.AioRpcError(status_code(instead), grpc.aio.Metadata(), trailing, instead.message)


def without_verdict_aio(error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """The same as `without_verdict` for grpc.aio."""
    if not verdicts_in(error.trailing_metadata()):
        return error
    initial, trailing = (
        grpc.aio.Metadata(*without_verdicts(metadata))
        for metadata in (error.initial_metadata(), error.trailing_metadata())
    )
    return grpc.aio.AioRpcError(error.code(), initial, trailing, error.details(), error.debug_error_string())
