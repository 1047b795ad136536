"""A guarded call with another response: the model was asked once more, or what came cannot be judged as it is."""

from __future__ import annotations

from collections.abc import Sequence

from tocsin.judgement.call import Call, StreamedCall


def with_another_response(call: Call, request: bytes | None, responses: Sequence[bytes]) -> tuple[Call, list[Call]]:
    """The call as it was made, with these messages in response to `request`, and what is to be judged of it: the call
    itself, or pieces where responses stream. `call` may be such a piece. The call that is given keeps its response.
    """
    stream = call if isinstance(call, StreamedCall) else call.parent
    if stream is None:
        another = Call(call.reads, call.keys, call.trace, call.wants_request)
        _describe(call, another, request)
        another.response = responses[0]
        return another, [another]
    another_stream = StreamedCall(
        stream.reads, stream.keys, stream.trace, stream.wants_request, stream.every, together=not stream.is_apart
    )
    if stream.is_document:
        another_stream.expect_document()
    _describe(stream, another_stream, request)
    pieces = [piece for response in responses if (piece := another_stream.on_response_message(response)) is not None]
    return another_stream, pieces + another_stream.ended()


def _describe(call: Call, another: Call, request: bytes | None) -> None:
    """Copy to another call everything except the response."""
    another.request = request
    another.hint, another.origin = call.hint, call.origin
    another.traceparent, another.began = call.traceparent, call.began
    another.is_unmatched, another.drawn_for = call.is_unmatched, call.drawn_for
    another.wants_initial, another.wants_trailing = call.wants_initial, call.wants_trailing
