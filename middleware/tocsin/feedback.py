"""Feedback over gRPC: the truth about responses, when it becomes known (proto/feedback.proto)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import grpc

from tocsin.errors import FeedbackError
from tocsin.judgement.guard import Guard
from tocsin.judgement.judge import Judge
from tocsin.judgement.levels import AdaptiveLevels
from tocsin.protocols.descriptors import message_class
from tocsin.state.redis_labels import Learn
from tocsin.state.store import Exchange

SERVICE = "tocsin.v1.Feedback"
ReportRequest = message_class("feedback", "tocsin.v1.ReportRequest")
ReportResponse = message_class("feedback", "tocsin.v1.ReportResponse")
MAX_LABELS = 1_000  # labels a request

Label = tuple[str, str, bool]  # model, identifier, safe


class FeedbackService:
    """Passes labels to the levels of a guard's models, and leaves labels for other replicas where they share a Redis.

    A label for a model whose levels do not follow feedback is FAILED_PRECONDITION.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._elsewhere = guard.state.pass_labels(self._judges)

    def exchange(self, shared: Exchange, *, last: bool = False) -> None:
        """Give the counts of this replica's labels to `shared`, and add those of other replicas."""
        models = self._guard.models
        judges = {
            f"{name}:{models[name].digests[0]}:{levels.kind}": levels
            for name, (_, levels) in self._adaptive.items()
            if levels.additive
        }
        for key, more in shared({key: levels.counts() for key, levels in judges.items()}).items():
            judges[key].add_counts(more)

    def _judges(self) -> dict[str, Learn]:
        return {judge.identifiers.name: levels.label for judge, levels in self._adaptive.values()}

    @property
    def _adaptive(self) -> Mapping[str, tuple[Judge, AdaptiveLevels]]:
        """The models whose levels follow feedback, with their judges."""
        judges = {name: m.scoring.judge for name, m in self._guard.models.items() if m.scoring is not None}
        return {name: (j, j.levels) for name, j in judges.items() if isinstance(j.levels, AdaptiveLevels)}

    def handler(self) -> Any:
        """The generic handler for a grpc server."""
        report = grpc.unary_unary_rpc_method_handler(
            self._report,
            request_deserializer=ReportRequest.FromString,
            response_serializer=ReportResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Report": report})

    async def _report(self, request: Any, context: Any) -> Any:
        adaptive = self._adaptive
        for label in request.labels:
            if label.model not in adaptive:
                names = ", ".join(adaptive) or "none does"
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"model '{label.model}' does not follow feedback (these do: {names}); set models.NAME.adapt",
                )
        response = ReportResponse()
        others = []
        for label in request.labels:
            judge, levels = adaptive[label.model]
            origin, dash, _ = label.id.partition("-")
            if self._elsewhere is not None and dash and origin != judge.identifiers.name:
                others.append((label.id, label.safe))
                continue
            outcome = levels.label(label.id, label.safe)
            setattr(response, outcome, getattr(response, outcome) + 1)
        if others and self._elsewhere is not None:
            forwarded = await asyncio.to_thread(self._elsewhere.leave, others)
            response.forwarded, response.unknown = (
                forwarded * len(others),
                response.unknown + (not forwarded) * len(others),
            )
        return response


def report(address: str, labels: Iterable[Label], token: str = "", timeout: float = 10.0) -> dict[str, int]:
    """Report labels to a running Tocsin. Returns how many had which outcome. `token`: the admin port's.

    Raises FeedbackError when it cannot be reached or refuses.
    """
    total = dict.fromkeys(("learnt", "bad", "duplicate", "unknown", "forwarded"), 0)
    request = ReportRequest()
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/Report",
            request_serializer=ReportRequest.SerializeToString,
            response_deserializer=ReportResponse.FromString,
        )

        def send() -> None:
            try:
                response = call(request, timeout=timeout, metadata=metadata)
            except grpc.RpcError as error:
                raise FeedbackError(f"{address}: {error.details()}") from None
            for outcome in total:
                total[outcome] += getattr(response, outcome)
            del request.labels[:]

        for model, identifier, safe in labels:
            request.labels.add(model=model, id=identifier, safe=safe)
            if len(request.labels) >= MAX_LABELS:
                send()
        if request.labels:
            send()
    return total
