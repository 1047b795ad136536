"""Everything that is fed: each reader of bytes, with what it must not do."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.fuzz import called, http1, processed, readers
from benchmarks.fuzz import graphs as planned_graphs
from benchmarks.fuzz.documents import Documents, events_as_callers_do
from benchmarks.fuzz.judged import Exchanged, Judged, ranked
from benchmarks.fuzz.relayed import BothWays, Relayed
from benchmarks.fuzz.seeds import INFERENCES, REQUEST, RESPONSE, SAFE, TRAILERS, conversations
from benchmarks.harness import ranker as acme
from benchmarks.harness.chat import USUAL, completion, stream, tokens_bundle
from benchmarks.harness.parts import quick_bundle, settings


class Target(NamedTuple):
    """Something that is fed: seeds to begin with, and a function that raises on a failure. `share` of all cases."""

    name: str
    seeds: list[bytes]
    feed: Callable[[bytes], None]
    share: float


def targets(folder: Path) -> list[Target]:
    """Every parser that is fuzzed, with its share of the cases.

    Of an earlier call with the same folder, what takes fitting is taken as it is.
    """
    bundle = fitted(folder / "fuzz.tocsin", quick_bundle)
    client, server = conversations()
    for mode in ("annotate", "enforce"):
        Relayed(bundle, mode).understood()
    processors = {mode: processed.Processed(bundle, mode) for mode in ("annotate", "enforce")}
    for processor in processors.values():
        processor.understood()
    client_of_server = called.Called(bundle)
    client_of_server.understood()
    tokens = fitted(folder / "tokens.tocsin", tokens_bundle)
    http = Exchanged(tokens)
    http_closed, http_annotate = (
        http1.HttpRelayed(tokens, "enforce", fail="closed"),
        http1.HttpRelayed(tokens, "annotate"),
    )
    for http_relay in (http_closed, http_annotate):
        http_relay.understood()
    return [
        Target("headers", [REQUEST, RESPONSE, TRAILERS], readers.headers, 0.2),
        Target("messages", [b"\0\0\0\0\5hello\0\0\0\0\0", gzip.compress(bytes(100_000))], readers.messages, 0.15),
        Target("frames", [*server, *client], readers.frames, 0.18),
        Target("client-observe", client, Relayed(bundle, "observe").client, 0.03),
        Target("server-observe", server, Relayed(bundle, "observe").server, 0.03),
        Target("server-both-ways", server, BothWays(bundle).server, 0.03),
        Target("client-annotate", client, Relayed(bundle, "annotate", ask=True).client, 0.03),
        Target("server-annotate", server, Relayed(bundle, "annotate", ask=True).server, 0.03),
        Target("client-enforce", client, Relayed(bundle, "enforce").client, 0.03),
        Target("server-enforce-closed", server, Relayed(bundle, "enforce", fail="closed").server, 0.05),
        Target("inferences", INFERENCES, Judged(settings(1, bundle, mode="enforce", fail="closed")).infer, 0.1),
        Target("fields", [acme.answer(SAFE, row) for row in range(4)], Judged(ranked(bundle, folder)).rank, 0.06),
        Target("http-documents", [completion([USUAL] * 6), completion([USUAL] * 3, [USUAL])], http.document, 0.02),
        Target("http-events", [b"".join(stream([USUAL] * 4))], http.events, 0.02),
        Target("http-values", [completion([USUAL] * 4), completion([USUAL], [USUAL])], Documents(tokens).feed, 0.02),
        Target(
            "http-lines", [b"".join(stream([USUAL] * 3)), b"event: a\r\ndata: {}\r\n\r\n"], events_as_callers_do, 0.03
        ),
        Target("http1-requests", http1.requests(), http1.read_request_as_peers_do, 0.06),
        Target("http1-responses", http1.responses(), http1.read_response_as_peers_do, 0.06),
        Target("http1-caller-annotate", http1.requests(), http_annotate.caller, 0.01),
        Target("http1-caller-closed", http1.requests(), http_closed.caller, 0.01),
        Target("http1-server-annotate", http1.responses(), http_annotate.server, 0.01),
        Target("http1-server-closed", http1.responses(), http_closed.server, 0.01),
        Target("containers", readers.containers(), readers.contained, 0.03),
        Target("scores", [b"0.25", b"-1e-3", b"nan", b"0.1, 0.2"], readers.scored_text, 0.01),
        Target("judges", readers.judged_replies(), readers.judge_reply, 0.02),
        Target("ext_proc-messages", processed.messages(), processed.read, 0.05),
        Target("ext_proc-annotate", processed.exchanges(), processors["annotate"].feed, 0.02),
        Target("ext_proc-enforce", processed.exchanges(), processors["enforce"].feed, 0.02),
        Target("verdicts", [b'{"model":"m","p":[0.5],"alarm":null}'], readers.verdicts, 0.03),
        Target("called-blocks", called.blocks(), client_of_server.block, 0.002),
        Target("called-frames", called.conversations(), client_of_server.frames, 0.001),
        Target("bundles", [bundle.read_bytes()], readers.Bundles(folder).feed, 0.01),
        Target("graphs", planned_graphs.graphs(folder), planned_graphs.planned, 0.003),
        Target("descriptors", [acme.descriptor_set()], readers.descriptors, 0.01),
        Target("configurations", [readers.CONFIGURATION], readers.Configurations(folder).feed, 0.02),
    ]


def fitted(path: Path, fit: Callable[[Path], object]) -> Path:
    """The path of a bundle, fitted unless it is there."""
    if not path.exists():
        fit(path)
    return path
