"""Everything between a client and a server: relays in each mode, delays and other proxies, begun when first needed."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from benchmarks.dataplane.hops import start_envoy, start_nginx
from benchmarks.harness.parts import running, settings
from tests.interop.forwarder import Forwarder
from tests.interop.protocol import ENDING
from tests.interop.scenarios import Scenario, write_messages
from tests.interop.stacks import Peer

MODES: dict[str, dict[str, str]] = {
    "observe": {"mode": "observe"},
    "annotate": {"mode": "annotate"},
    "open": {"mode": "enforce", "fail": "open"},
    "closed": {"mode": "enforce", "fail": "closed"},
}
DELAY = 0.01  # seconds each way
WRITTEN_ON_THE_WAY = {  # by the relay and by other proxies
    "tocsin-verdict", "date", "server", "x-request-id", "x-forwarded-proto", "x-envoy-upstream-service-time",
    "x-envoy-expected-rq-timeout-ms", "x-envoy-decorator-operation",
}  # fmt: skip


class World:
    """Clients, servers and what is between them, each begun when it is first asked for."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self._folder = folder
        self._bundle = bundle
        self._running: dict[Any, Any] = {}
        self._direct: dict[Any, Any] = {}
        self._tags = itertools.count()
        self._stack = ExitStack()
        write_messages(folder)

    def close(self) -> None:
        self._stack.close()

    def observe(self, scenario: Scenario, client: str, server: str, hop: str, mode: str, place: str) -> Any:
        """What comes of a scenario, from client to server, with a delay or another proxy (`hop`) `before` or `behind` a
        relay of this mode. Hop and mode may be empty: there is none.
        """
        upstream = self._peer(server, "server").port
        if scenario.late:
            with self._late(upstream) as port:
                relayed = self._relayed(port, mode, upstream_health="listen")
                return self._ask(scenario, client, relayed, upstream)
        if place == "before":
            port = self._hop(hop, self._relayed(upstream, mode))
        else:
            port = self._relayed(self._hop(hop, upstream), mode)
        return self._ask(scenario, client, port, upstream)

    def direct(self, name: str, scenario: Scenario, client: str, server: str, hop: str) -> Any:
        """The same without a relay; observed once."""
        key = name, client, server, hop
        if key not in self._direct:
            self._direct[key] = self.observe(scenario, client, server, hop, "", "")
        return self._direct[key]

    def _ask(self, scenario: Scenario, client: str, port: int, server: int) -> Any:
        tag = f"tag-{next(self._tags)}"
        content = scenario.json(f"127.0.0.1:{port}")
        for call in [content["call"], *content["background"]]:
            call["metadata"] = [(key, tag if value == "TAG" else value) for key, value in call["metadata"]]
        if scenario.ending:
            content["call"]["metadata"].append(("do-tag", tag))
        observation = self._peer(client, "client").ask(content)
        observed: dict[str, Any] = {
            "outcomes": _merged((_comparable(outcome, scenario), count) for outcome, count in observation["outcomes"]),
            "background": [_comparable(outcome, scenario) for outcome in observation["background"]],
        }
        if scenario.ending:
            observed["ending"] = _ending(server, tag)
        return observed

    def _peer(self, stack: str, role: str) -> Peer:
        peer: Peer | None = self._running.get((stack, role))
        if peer is None or not peer.is_running:
            peer = self._running[stack, role] = Peer(stack, role, self._folder)
            self._stack.callback(peer.close)
        return peer

    def _relayed(self, upstream: int, mode: str, **more: Any) -> int:
        if not mode:
            return upstream
        config = settings(upstream, self._bundle, drain="1s", **MODES[mode], **more)
        begin = partial(self._stack.enter_context, running(config))
        return int(self._once(("relay", upstream, mode), begin).target.rpartition(":")[2])

    def _hop(self, kind: str, upstream: int) -> int:
        if not kind:
            return upstream
        port: int = self._once((kind, upstream), lambda: self._begin_hop(kind, upstream))
        return port

    def _begin_hop(self, kind: str, upstream: int) -> int:
        if kind == "delay":
            forwarder = Forwarder(upstream, DELAY)
            self._stack.callback(forwarder.close)
            forwarder.open()
            return forwarder.port
        folder = self._folder / f"{kind}-{upstream}"
        folder.mkdir()
        hop = start_envoy(folder, upstream) if kind == "envoy" else start_nginx(folder, upstream)
        assert hop.process is not None
        self._stack.callback(hop.process.wait)
        self._stack.callback(hop.process.terminate)
        return hop.port

    @contextmanager
    def _late(self, upstream: int) -> Iterator[int]:
        """A port that refuses connections for the first second."""
        forwarder = Forwarder(upstream)
        timer = threading.Timer(1.0, forwarder.open)
        timer.start()
        try:
            yield forwarder.port
        finally:
            timer.join()
            forwarder.close()

    def _once(self, key: Any, begin: Any) -> Any:
        if key not in self._running:
            self._running[key] = begin()
        return self._running[key]


def _comparable(outcome: dict[str, Any], scenario: Scenario) -> dict[str, Any]:
    """Without what is written on the way; metadata by key, since not every client keeps the order of keys, but with the
    order of the values of one.
    """
    for part in ("initial", "trailing"):
        values: dict[str, list[str]] = {}
        for key, value in outcome[part]:
            if key not in WRITTEN_ON_THE_WAY:
                values.setdefault(key, []).append(value)
        outcome[part] = values
    if scenario.messages is None:
        del outcome["messages"]
    if not scenario.text:
        del outcome["text"]
    return outcome


def _merged(outcomes: Iterable[tuple[dict[str, Any], int]]) -> list[tuple[dict[str, Any], int]]:
    """Equal outcomes once, with how often they came."""
    counts: dict[str, int] = {}
    for outcome, count in outcomes:
        line = json.dumps(outcome, sort_keys=True)
        counts[line] = counts.get(line, 0) + count
    return [(json.loads(line), count) for line, count in counts.items()]


def _ending(server: int, tag: str) -> str:
    with grpc.insecure_channel(f"127.0.0.1:{server}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        answer: bytes = channel.unary_unary(ENDING)(b"", metadata=[("do-ending", tag)], timeout=20)
    return answer.decode()
