"""Claim: what Envoy tells of a request's head in attributes counts where it sends no header fields, once."""

from __future__ import annotations

from tocsin.ext_proc.request_head import ReportedHead


def test_attributes_stand_in_for_fields_that_are_not_sent() -> None:
    head = ReportedHead()
    head.attributes.update({"request.path": "/a.B/C", "request.method": "PUT", "request.headers['x-session']": "s"})
    assert (head.path, head.verb, dict(head.metadata)) == ("/a.B/C", "PUT", {"x-session": "s"})


def test_fields_count_before_attributes_and_the_last_of_a_name_counts() -> None:
    head = ReportedHead()
    head.attributes["request.path"] = "/other"
    head.on_fields([(":path", "/a"), (":method", "GET"), ("x", "1"), ("x", "2"), ("grpc-encoding", "gzip")])
    assert (head.path, head.verb, head.encoding, head.metadata["x"]) == ("/a", "GET", "gzip", "2")


def test_a_call_that_is_judged_by_one_path_is_not_asked_again_at_another() -> None:
    head = ReportedHead()
    head.attributes.update({"request.path": "/judged", "request.method": "PUT"})
    head.settle()
    head.attributes.update({"request.path": "/other", "request.method": "DELETE"})
    assert (head.path, head.verb) == ("/judged", "PUT")


def test_what_is_not_told_is_a_post_without_a_path_and_what_envoy_adds_is_not_sent_on() -> None:
    head = ReportedHead()
    assert (head.path, head.verb, dict(head.metadata)) == ("", "POST", {})
    head.on_fields([(":path", "/a"), ("x-envoy-attempt-count", "1"), ("x-request-id", "1"), ("accept", "*/*")])
    assert head.forwarded == [("accept", "*/*")]
