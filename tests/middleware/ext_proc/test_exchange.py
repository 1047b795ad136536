"""Claim: whatever the order of messages and verdicts, Envoy gets each reply once, of the right kind, in its order."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.harness import ranker as acme
from tests.middleware.ext_proc.recording_host import Host, header_map
from tests.positions import ANSWERS

from tocsin.ext_proc.requests import read_request
from tocsin.grpc_wire.deframer import framed

STREAMED, BUFFERED, DUPLEX = 1, 2, 4
BLOCK = {"mode": "enforce", "on_alarm": {"critical": "block"}}
RETRY = {"mode": "enforce", "on_alarm": {"critical": "retry"}, "retry": {"most": 1, "otherwise": "block"}}
OK = [("grpc-status", "0")]


@pytest.fixture
def host(bundle: Path, tmp_path: Path) -> Callable[..., Host]:
    return lambda policy, **more: Host(bundle, tmp_path, policy, **more)


Make = Callable[..., Host]


def test_a_verdict_waits_for_nothing_but_the_trailers(host: Make) -> None:
    here = host({"mode": "annotate"})
    here.begin(STREAMED)
    here.headers()
    here.body("safe3")
    assert here.kinds == ["request_headers", "response_headers", "response_body"]
    here.trailers(OK)
    assert len(here.replies) == 3 and len(here.budgets) == 1
    here.judge()
    assert here.kinds[-1] == "response_trailers" and json.loads(here.last()["tocsin-verdict"])["alarm"] is None
    here.close()


@pytest.mark.parametrize("cuts", [1, 2, 3, 7, 50])
def test_messages_are_put_together_however_the_body_is_cut(cuts: int, host: Make) -> None:
    content = b"".join(framed(ANSWERS[name]) for name in ("safe3", "safe4", "safe5"))
    here = host({"mode": "enforce"})
    here.begin(DUPLEX, "Watch")
    here.headers()
    size = len(content) // cuts + 1
    for at in range(0, len(content), size):
        here.body(raw=content[at : at + size])
        here.judge()
    here.trailers(OK)
    assert here.body_out() == content
    assert here.kinds[1] == "response_headers" and here.kinds[-1] == "response_trailers"
    here.close()


def test_held_headers_leave_with_the_first_message(host: Make) -> None:
    here = host(BLOCK)
    here.begin(DUPLEX, "Watch")
    here.headers()
    here.body("safe3", "safe4")
    assert here.kinds == ["request_headers"]
    here.judge(1)
    assert here.kinds == ["request_headers", "response_headers", "response_body"]
    assert here.body_out() == framed(ANSWERS["safe3"])
    here.judge()
    here.trailers(OK)
    assert here.body_out() == framed(ANSWERS["safe3"]) + framed(ANSWERS["safe4"])
    here.close()


def test_verdicts_in_any_order_release_messages_in_theirs(host: Make) -> None:
    for order in itertools.permutations(range(3)):
        here = host(BLOCK)
        here.begin(DUPLEX, "Watch")
        here.headers()
        here.body("safe3", "safe4", "safe5")
        here.trailers(OK)
        pending, here.waiting = here.waiting, []
        for place in order:
            assert here.kinds[-1] != "response_trailers"
            call, waiting = pending[place]
            here.guard.judge([call])
            waiting.judged(call)
        assert here.body_out() == b"".join(framed(ANSWERS[name]) for name in ("safe3", "safe4", "safe5"))
        assert here.kinds[-1] == "response_trailers"
        here.close()


def test_what_is_blocked_at_first_is_one_immediate_reply(host: Make) -> None:
    for mode in (DUPLEX, BUFFERED):
        here = host(BLOCK)
        here.begin(mode)
        here.headers()
        here.body("far")
        here.judge()
        assert here.kinds[-1] == "immediate_response"
        assert here.replies[-1].immediate_response.grpc_status.status == 7
        assert json.loads(here.last()["tocsin-verdict"])["action"] == "block"
        replies = len(here.replies)
        here.body("safe3")
        here.trailers(OK)
        assert len(here.replies) == replies  # Envoy has ended the exchange
        here.close()


def test_a_stream_that_is_stopped_swallows_the_rest_and_ends_with_a_status(host: Make) -> None:
    here = host(BLOCK)
    here.begin(DUPLEX, "Watch")
    here.headers()
    here.body("safe3", "far", "safe4")
    here.judge()
    here.body("safe5")
    assert here.body_out() == framed(ANSWERS["safe3"])
    here.trailers([*OK, ("x-secret", "yes")])
    assert here.kinds.count("response_trailers") == 1 and here.last()["grpc-status"] == "7"
    assert list(here.replies[-1].response_trailers.header_mutation.remove_headers) == ["x-secret"]
    here.close()


def test_a_buffered_stream_goes_out_unchanged_or_not_at_all(host: Make) -> None:
    here = host(BLOCK)
    here.begin(BUFFERED, "Watch")
    here.headers()
    here.body("safe3", "safe4")
    assert here.kinds[-1] == "response_headers"
    here.judge()
    assert here.kinds[-1] == "response_body"
    assert not here.replies[-1].response_body.response.HasField("body_mutation")
    here.trailers(OK)
    assert json.loads(here.last()["tocsin-verdict"])["action"] == "pass"
    here.close()
    here = host(BLOCK)
    here.begin(BUFFERED, "Watch")
    here.headers()
    here.body("safe3", "far")
    here.judge()
    assert here.kinds == ["request_headers", "response_headers", "immediate_response"]
    here.close()


@pytest.mark.parametrize("mode", [DUPLEX, BUFFERED])
@pytest.mark.parametrize("fail", ["open", "closed"])
def test_a_late_verdict_passes_or_refuses_and_comes_to_nothing_later(fail: str, mode: int, host: Make) -> None:
    here = host({**BLOCK, "fail": fail})
    here.begin(mode)
    here.headers()
    here.body("far")
    here.budgets[0].on_deadline()
    if fail == "open":
        assert here.kinds[-1] == "response_body"
        here.trailers(OK)
        assert json.loads(here.last()["tocsin-verdict"])["unscored"] == "late"
    else:
        assert here.kinds[-1] == "immediate_response" and here.replies[-1].immediate_response.grpc_status.status == 14
    replies = len(here.replies)
    here.judge()
    here.budgets[0].on_deadline()
    assert len(here.replies) == replies
    here.close()


def test_another_answer_takes_the_place_of_a_withheld_one(host: Make) -> None:
    for mode in (DUPLEX, BUFFERED):
        here = host(RETRY)
        here.begin(mode, request=acme.Request(query="far").SerializeToString())
        here.headers(("content-length", "77"))
        here.body("far")
        here.judge()
        ((step, fields, on_answer),) = here.asks
        assert step.request == acme.Request(query="far").SerializeToString() and (":method", "POST") in fields
        assert here.kinds[-1] in ("request_body", "response_headers")
        here.trailers([*OK, ("x-ranker", "yes")])
        on_answer([ANSWERS["safe7"]])
        here.judge()
        if mode == DUPLEX:
            assert here.body_out() == framed(ANSWERS["safe7"])
        else:
            (changed,) = [r.response_body.response for r in here.replies if r.WhichOneof("response") == "response_body"]
            assert changed.body_mutation.body == framed(ANSWERS["safe7"])
            assert list(changed.header_mutation.remove_headers) == ["content-length"]
        assert json.loads(here.last()["tocsin-verdict"])["action"] == "retry" and here.last()["grpc-status"] == "0"
        here.close()


def test_asking_is_given_up_when_envoy_leaves(host: Make) -> None:
    here = host(RETRY)
    here.begin(DUPLEX, request=acme.Request(query="far").SerializeToString())
    here.headers()
    here.body("far")
    here.judge()
    here.close()
    assert here.given_up == 1 and here.context.abandoned == 1


def test_trailers_alone_and_failed_calls_are_not_judged(host: Make) -> None:
    for policy in ({"mode": "annotate"}, BLOCK):
        here = host(policy)
        here.begin(DUPLEX)
        here.headers(("grpc-status", "5"), end=True)
        assert here.kinds == ["request_headers", "response_headers"] and not here.waiting and not here.last()
        here.close()
    here = host({**BLOCK, "fail": "closed"})
    here.begin(DUPLEX)
    here.headers(("grpc-status", "0"), end=True)  # a success without a message
    assert here.replies[-1].immediate_response.grpc_status.status == 14
    here.close()


def test_what_is_no_grpc_passes_or_is_refused(host: Make) -> None:
    for fail in ("open", "closed"):
        here = host({**BLOCK, "fail": fail})
        here.begin(DUPLEX)
        fields = [(":status", "503"), ("content-type", "text/html")]
        here.say(response_headers={"headers": header_map(fields)})
        if fail == "closed":
            assert here.replies[-1].immediate_response.grpc_status.status == 14
        else:
            here.body(raw=b"<html>", end=True)
            assert here.body_out() == b"<html>"
            assert here.replies[-1].response_body.response.body_mutation.streamed_response.end_of_stream
        assert here.context.not_understood["not_grpc"] == 1
        here.close()


def test_what_is_too_much_to_hold_passes_or_is_refused(host: Make) -> None:
    large = framed(b"\0" * (2 << 20))
    for fail in ("open", "closed"):
        here = host({**BLOCK, "fail": fail})
        here.context.max_message = 1 << 20
        here.begin(DUPLEX)
        here.headers()
        for at in range(0, len(large), 1 << 18):
            here.body(raw=large[at : at + (1 << 18)])
        here.trailers(OK)
        if fail == "open":
            assert here.body_out() == large
            assert json.loads(here.last()["tocsin-verdict"])["unscored"] == "too_large"
        else:
            assert here.replies[-1].immediate_response.grpc_status.status == 14 and not here.body_out()
        here.close()


def test_a_second_message_where_there_may_be_one_passes_unjudged_or_is_refused(host: Make) -> None:
    for fail in ("open", "closed"):
        here = host({**BLOCK, "fail": fail})
        here.begin(DUPLEX)
        here.headers()
        here.body("safe3", "far")
        here.judge()
        here.trailers(OK)
        if fail == "open":
            assert here.body_out() == framed(ANSWERS["safe3"]) + framed(ANSWERS["far"])
        else:
            assert not here.body_out() and here.replies[-1].immediate_response.grpc_status.status == 14
        here.close()


def test_observability_takes_no_reply_and_ends_the_stream_itself(host: Make) -> None:
    for policy in ({"mode": "observe"}, {"mode": "annotate"}):
        here = host(policy)
        here.begin(STREAMED, observes=True)
        here.headers()
        here.body("safe3")
        assert not here.replies and here.ended == (0, "")
        here.judge()
        here.close()
    here = host({"mode": "observe"})
    here.begin(STREAMED, "Watch", observes=True)
    here.headers()
    here.body("safe3")
    assert here.ended is None
    here.trailers(OK)
    assert not here.replies and here.ended == (0, "")
    here.close()


def test_an_unknown_kind_ends_the_stream_with_an_error(host: Make) -> None:
    here = host({"mode": "annotate"})
    here.exchange.on_message(read_request(b"\x62\x00"))
    assert here.ended is not None and here.ended[0] != 0 and here.context.not_understood["message"] == 1
    here.close()


def test_a_reload_leaves_what_is_under_way_as_it_began(host: Make) -> None:
    here = host(BLOCK)
    here.begin(DUPLEX, "Watch")
    here.headers()
    here.body("safe3")
    here.context.follow(here.guard.config.model_copy(update={"mode": "observe"}))
    here.judge()
    here.body("safe4")
    here.judge()
    here.trailers(OK)
    assert here.body_out() == framed(ANSWERS["safe3"]) + framed(ANSWERS["safe4"])
    assert "tocsin-verdict" in here.last()
    here.close()


def test_messages_that_wait_for_others_are_not_kept_once_their_response_is_replaced(host: Make) -> None:
    here = host({**BLOCK, "judge": 2})
    here.begin(DUPLEX, "Watch")
    here.headers()
    here.body("safe3", "far", "safe4")
    call = here.exchange.call
    assert call is not None and call.kept_bytes > 0
    here.judge()
    assert here.replies[-1].WhichOneof("response") == "immediate_response"
    assert call.kept_bytes == 0 and not call.ended()
    here.close()
