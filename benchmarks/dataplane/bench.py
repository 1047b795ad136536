"""Hops, each measured in its turn, in every shape and size."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.compiled import kinds, named
from benchmarks.dataplane.hops import (
    Hop,
    free_port,
    start_envoy,
    start_nginx,
    start_processor,
    start_proxy,
    start_relay,
    start_upstream,
)
from benchmarks.dataplane.load import Figures, Shape, Table, load, medians
from benchmarks.dataplane.messages import (
    PATH,
    STREAM_PATH,
    WIDTHS,
    make_bundle,
    request,
    response,
    smallest,
    stream,
    traffic,
)
from benchmarks.dataplane.receiver import Receiver
from benchmarks.harness.certificates import Authority
from benchmarks.report import console
from tocsin.grpc_wire.deframer import framed
from tocsin_calibration import Bundle

SHAPES = {"1x1": Shape(1, 1, 2_000), "4x8": Shape(4, 8, 12_000), "16x16": Shape(16, 16, 20_000)}
SHORT = Shape(16, 16, 5_000)
SLOW = {"1x1": Shape(1, 1, 500), "4x8": Shape(4, 8, 2_000), "16x16": Shape(16, 16, 3_000)}
SMALLEST = "0.1 KB"
SIZES = {"0.4 KB": 0, "10 KB": 10_000, "100 KB": 100_000, "1 MB": 1_000_000}
MESSAGES = 1_000  # of a stream
UNREPORTED, REPORTED = "scored observe, nobody told", "scored observe, everybody told"
TELLING_ROUNDS = 8  # times as many as elsewhere, and shorter: it is a small difference, taken pair by pair
NARROW, WIDE = 16, 24  # bits of the upstream's windows: as HTTP/2 begins, and such that hold nothing back
LOADED = 0.7  # of what Envoy answers at most, where all hops are given the same


class Bench:
    """Starts hops, and measures them in turn."""

    def __init__(self, work: Path, rounds: int) -> None:
        self._work, self._rounds = work, rounds
        self.observations = traffic(1_000)
        self._bundle = work / "bench.tocsin"
        make_bundle(self.observations, self._bundle)
        self._request = work / "request.bin"
        self._request.write_bytes(request())
        self._port = free_port()
        self._window = NARROW
        self._upstream = self._answering(framed(response(self.observations, 0)))
        self._hops: list[Hop] = []
        self._most = 0.0  # requests a second that Envoy answers
        self.telling_us: dict[str, dict[str, float]] = {}  # what telling adds to a response, by build, and if it alarms
        signals = ", ".join(f"{name}: response.outputs.{name}" for name in WIDTHS)
        self._unscored = f"  bench: {{signals: {{{signals}}}}}\n"
        self._scored = f"  bench: {{bundle: {self._bundle}, signals: {{{signals}}}}}\n"

    def _answering(self, content: bytes, path: str = PATH) -> Hop:
        return start_upstream(self._work, {path: content}, self._port, self._window)

    def _answer_with(self, content: bytes, path: str = PATH) -> None:
        """Have the upstream send another response; it is started again, so its connections are new."""
        assert self._upstream.process is not None
        self._upstream.process.kill()
        self._upstream.process.wait()
        self._upstream = self._answering(content, path)

    def _relay(self, name: str, mode: str, *, scored: bool, more: str = "", compiled: bool = False) -> Hop:
        settings = self._scored if scored else self._unscored
        hop = start_relay(named(name, compiled), self._work, self._port, mode, settings, more, compiled=compiled)
        self._hops.append(hop)
        return hop

    def start_hops(self) -> None:
        """Start the hops that several tables have."""
        for compiled in kinds():
            for scored in (False, True):
                for mode in ("observe", "annotate", "enforce"):
                    self._relay(f"scored {mode}" if scored else mode, mode, scored=scored, compiled=compiled)
        self._hops += [start_nginx(self._work, self._port), start_envoy(self._work, self._port)]

    def shapes(self) -> Table:
        """Every hop in every shape."""
        work, port = self._work, self._port
        hops = [Hop("direct", port), *self._hops, start_proxy(work, port)]
        processor = start_processor(work, work / "scored-annotate.yaml")
        hops.append(start_envoy(work, port, ext_proc=processor.port))
        hops[-1].also = processor.process
        self._hops += [*hops[-2:], processor]
        table = self._measured(hops, {shape: (PATH, shape) for shape in SHAPES})
        self._most = table["envoy"]["16x16"].requests_per_s
        return table

    def wide(self) -> Table:
        """The shapes again for the fast hops, with an upstream whose flow-control windows never block."""
        self._window = WIDE
        self._answer_with(framed(response(self.observations, 0)))
        slow = ("ext_proc", "aio", "processor")
        quick = [Hop("direct", self._port), *(hop for hop in self._hops if not any(word in hop.name for word in slow))]
        table = self._measured(quick, {shape: (PATH, shape) for shape in SHAPES})
        self._window = NARROW
        self._answer_with(framed(response(self.observations, 0)))
        return table

    def same_load(self) -> Table:
        """As many requests a second for each hop: a share of the most that Envoy answers."""
        if not self._most:
            self._most = self._measured([hop for hop in self._hops if hop.name == "envoy"], {"16x16": (PATH, "16x16")})[
                "envoy"
            ]["16x16"].requests_per_s
        rate = LOADED * self._most
        table: Table = {}
        self._fill(table, f"{rate:,.0f} requests/s", PATH, SHAPES["16x16"]._replace(rate=rate), self._some())
        return table

    def sizes(self) -> Table:
        """Responses from small to large, 4x4; the smallest lacks what detectors read, and is for those who do not
        judge.
        """
        table: Table = {}
        self._answer_with(framed(smallest(self.observations)))
        unjudged = [hop for hop in self._some() if not hop.name.startswith("scored")]
        self._fill(table, SMALLEST, PATH, Shape(4, 4, 4_000), unjudged)
        for name, padding in SIZES.items():
            self._answer_with(framed(response(self.observations, 0, padding=padding)))
            shape = Shape(4, 4, 4_000 if padding < 100_000 else 800 if padding < 1_000_000 else 160)
            self._fill(table, name, PATH, shape, self._some())
        return table

    def streams(self) -> Table:
        """Responses that are a stream of so many messages, figures for a whole stream."""
        self._answer_with(stream(response(self.observations, 0), MESSAGES), STREAM_PATH)
        table: Table = {}
        self._fill(table, f"{MESSAGES:,} messages", STREAM_PATH, Shape(2, 2, 60), self._some())
        self._answer_with(framed(response(self.observations, 0)))
        return table

    def tls(self) -> Table:
        """The first table's middle shape, TLS towards callers."""
        pair = Authority(self._work / "tls").sign("localhost")
        more = f"tls: {{certificate: {pair[0]}, key: {pair[1]}}}\n"
        hops = [
            self._relay(f"{mode}, TLS", mode, scored=mode != "observe", more=more, compiled=compiled)
            for compiled in kinds()
            for mode in ("observe", "annotate", "enforce")
        ]
        for hop in hops:
            hop.tls = True
        others = [start_nginx(self._work, self._port, pair), start_envoy(self._work, self._port, pair=pair)]
        self._hops += others
        return self._measured([*hops, *others], {"4x8": (PATH, "4x8")})

    def workers(self) -> Table:
        """One process and two, every response judged."""
        hops = []
        for compiled in kinds():
            for workers in (1, 2):
                name, more = f"scored annotate, {workers} workers", f"workers: {workers}\n"
                hops.append(self._relay(name, "annotate", scored=True, more=more, compiled=compiled))
        return self._measured(hops, {"16x16": (PATH, "16x16")})

    def telling(self) -> Table:
        """Every response judged, with nobody told, and with everybody: metrics, spans of 1%, an event file. All of the
        responses are safe, or all of them alarm.
        """
        scores = Bundle.read(self._bundle)
        severities = scores.require_promise().judge(scores.scorer(self.observations)).severities
        table: Table = {}
        with Receiver() as receiver:
            telling = f"opentelemetry: {{endpoint: '{receiver.url}', protocol: http, traces: 0.01}}\n"
            telling += f"events: {{to: [{{file: {self._work / 'alarms.jsonl'}}}]}}\n"
            pairs_of_build: dict[bool, list[Hop]] = {}
            for compiled in kinds():
                for name, more in ((UNREPORTED, "page: false\n"), (REPORTED, telling)):
                    hop = start_relay(
                        named(name, compiled), self._work, self._port, "observe", self._scored, more,
                        counts=name == REPORTED, compiled=compiled,
                    )  # fmt: skip
                    pairs_of_build.setdefault(compiled, []).append(hop)
                self._hops += pairs_of_build[compiled]
            alarmed = next(row for row, severity in enumerate(severities) if severity is not None)
            for kind, row in (("safe", severities.index(None)), ("alarmed", alarmed)):
                self._answer_with(framed(response(self.observations, row)))
                for compiled, hops in pairs_of_build.items():
                    figures = self._telling_figures(hops)
                    for at, hop in enumerate(hops):
                        table.setdefault(hop.name, {})[kind] = medians([pair[at] for pair in figures])
                    build = self.telling_us.setdefault("compiled" if compiled else "plain", {})
                    build[kind] = statistics.median(reported.cpu_us - untold.cpu_us for untold, reported in figures)
                console.print(f"telling of what is {kind} measured")
        return table

    def _telling_figures(self, hops: list[Hop]) -> list[list[Figures]]:
        """Figures of a pair of hops, once in each order."""
        pairs: list[list[Figures]] = []
        for number in range(TELLING_ROUNDS * self._rounds):
            pair = {hop.name: load(hop, PATH, self._request, SHORT) for hop in (hops if number % 2 else hops[::-1])}
            pairs.append([pair[hop.name] for hop in hops])
        return pairs[2:]

    def _some(self) -> list[Hop]:
        relays = ("observe", "scored observe", "scored annotate", "scored enforce")
        names = {named(name, compiled) for name in relays for compiled in kinds()} | {"nginx", "envoy"}
        return [Hop("direct", self._port), *(hop for hop in self._hops if hop.name in names)]

    def _fill(self, table: Table, column: str, path: str, shape: Shape, hops: list[Hop]) -> None:
        rounds: dict[str, list[Figures]] = {}
        for number in range(1 + self._rounds):
            for hop in hops:
                share = shape._replace(requests=max(8, shape.requests // (1 if number else 4)))
                figures = load(hop, path, self._request, share, settles=path == STREAM_PATH)
                if number:  # the first is to warm up
                    rounds.setdefault(hop.name, []).append(figures)
        for name, several in rounds.items():
            table.setdefault(name, {})[column] = medians(several)
        console.print(f"{column} measured")

    def _measured(self, hops: list[Hop], columns: dict[str, tuple[str, str]]) -> Table:
        """Medians by hop and shape, every hop measured once a round."""
        rounds: dict[tuple[str, str], list[Figures]] = {}
        for number in range(1 + self._rounds):
            for column, (path, name) in columns.items():
                for hop in hops:
                    slow = "ext_proc" in hop.name or "aio" in hop.name
                    shape = (SLOW if slow else SHAPES)[name]
                    if not number:
                        shape = shape._replace(requests=shape.requests // 4)
                    figures = load(hop, path, self._request, shape)
                    if number:
                        rounds.setdefault((hop.name, column), []).append(figures)
            console.print(f"round {number} of {self._rounds}" if number else "warm")
        table: Table = {}
        for (name, column), several in rounds.items():
            table.setdefault(name, {})[column] = medians(several)
        return table

    def end(self) -> None:
        """End every process."""
        for hop in (self._upstream, *self._hops):
            if hop.process is not None:
                hop.process.terminate()
                hop.process.wait()
