"""The relay beside Envoy, nginx, a proxy on grpc.aio and no hop at all: CPU, latency, throughput.

One run, interleaved, medians over rounds. The upstream is nghttpd, the load generator h2load; a request is an image of
28x28 FP32 (3 KB), the response an inference with 10 probabilities, 10 logits and a 64-dimensional embedding. Scored
rows judge every response: four detectors in one graph, joint p-value, metrics. Then the same with wide windows, sizes,
streams, TLS and workers.

nghttpd takes 64 KB of requests a connection at a time, as HTTP/2 begins, and tells of new room now and then. Sixteen
calls at once wait for that, some much longer than others, with no hop at all too. With wide windows nobody waits for
the upstream's leave.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from tests.certificates import Authority

from benchmarks.compiled import kinds, named
from benchmarks.dataplane.breakdown import breakdown
from benchmarks.dataplane.hops import (
    Hop,
    free_port,
    missing,
    start_envoy,
    start_nginx,
    start_processor,
    start_proxy,
    start_relay,
    start_upstream,
)
from benchmarks.dataplane.load import Figures, Shape, load, medians
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
from benchmarks.report import Check, arguments, at_most, console, finish
from tocsin.relay.messages import framed
from tocsin_calibration import Bundle

SHAPES = {"1x1": Shape(1, 1, 2_000), "4x8": Shape(4, 8, 12_000), "16x16": Shape(16, 16, 20_000)}
SHORT = Shape(16, 16, 5_000)
SLOW = {"1x1": Shape(1, 1, 500), "4x8": Shape(4, 8, 2_000), "16x16": Shape(16, 16, 3_000)}
SMALLEST = "0.1 KB"
SIZES = {"0.4 KB": 0, "10 KB": 10_000, "100 KB": 100_000, "1 MB": 1_000_000}
MESSAGES = 1_000  # of a stream
CPU_UNSCORED = {"1x1": 0.7, "4x8": 0.5, "16x16": 0.5}
CPU_SCORED = {"1x1": 1.3, "4x8": 0.8, "16x16": 0.5}
CPU_ENFORCED = {"4x8": 0.6}
LATENCY_1X1 = 0.7
UNTOLD, TOLD = "scored observe, nobody told", "scored observe, everybody told"
TELLING, ALARMED = 5.0, 0.05  # us a response; a share of them that alarms
TELLING_ROUNDS = 8  # times as many as elsewhere, and shorter: it is a small difference, taken pair by pair
NARROW, WIDE = 16, 24  # bits of the upstream's windows: as HTTP/2 begins, and such that hold nothing back
LOADED = 0.7  # of what Envoy answers at most, where all hops are given the same
P99 = 2_000.0  # us that a tail under load may be longer than Envoy's

Table_ = dict[str, dict[str, Figures]]


def main() -> None:
    options = arguments(
        __doc__ or "",
        rounds={"type": int, "default": 5, "help": "how often each hop is measured in each shape"},
        quick={"action": "store_true", "help": "only the first table"},
    )
    if lacking := missing():
        raise SystemExit(f"this benchmark needs programs that are not installed: {lacking}")
    with tempfile.TemporaryDirectory(prefix="tocsin-dataplane-") as folder:
        bench = Bench(Path(folder), options.rounds)
        try:
            tables = {"hops": bench.shapes()}
            if not options.quick:
                tables |= {
                    "wide windows": bench.wide(),
                    "same load": bench.same_load(tables["hops"]["envoy"]["16x16"].requests_per_s),
                    "sizes": bench.sizes(),
                    "streams": bench.streams(),
                    "tls": bench.tls(),
                    "workers": bench.workers(),
                    "telling": bench.telling(),
                }
        finally:
            bench.end()
        spent = breakdown(Path(folder) / "scored-annotate.yaml", bench.observations)
    for name, table in tables.items():
        print_table(name, table)
    print_spent(spent)
    facts = {
        name: {hop: {k: v._asdict() for k, v in row.items()} for hop, row in t.items()} for name, t in tables.items()
    }
    made = checks(tables["hops"])
    if "same load" in tables:
        made += checks(tables["wide windows"], "wide windows: ")
        made += tail_checks(tables["same load"], ["scored annotate", "scored enforce"], "at the same load: ")
    if "telling" in tables:
        for share in (0.0, ALARMED):
            more = told_us(bench.telling_us, share)
            made.append(at_most(f"telling, {share:.0%} alarmed: CPU a response, us", more, TELLING))
    finish({**facts, "spent_us": spent, "telling_us": bench.telling_us}, made, options.json)


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
        self.telling_us: dict[str, float] = {}  # what telling adds to a response, by whether it alarms
        signals = ", ".join(f"{name}: response.outputs.{name}" for name in WIDTHS)
        self._unscored = f"  bench: {{signals: {{{signals}}}}}\n"
        self._scored = f"  bench: {{bundle: {self._bundle}, signals: {{{signals}}}}}\n"

    def _answering(self, content: bytes, path: str = PATH) -> Hop:
        return start_upstream(self._work, {path: content}, self._port, self._window)

    def _answer_with(self, content: bytes, path: str = PATH) -> None:
        """Put another answer into the upstream; its connections begin anew."""
        assert self._upstream.process is not None
        self._upstream.process.kill()
        self._upstream.process.wait()
        self._upstream = self._answering(content, path)

    def _relay(self, name: str, mode: str, *, scored: bool, more: str = "", compiled: bool = False) -> Hop:
        settings = self._scored if scored else self._unscored
        hop = start_relay(named(name, compiled), self._work, self._port, mode, settings, more, compiled=compiled)
        self._hops.append(hop)
        return hop

    def shapes(self) -> Table_:
        """Every hop in every shape."""
        work, port = self._work, self._port
        hops = [
            Hop("direct", port),
            *(
                self._relay(f"scored {mode}" if scored else mode, mode, scored=scored, compiled=compiled)
                for compiled in kinds()
                for scored in (False, True)
                for mode in ("observe", "annotate", "enforce")
            ),
        ]
        others = [start_nginx(work, port), start_envoy(work, port), start_proxy(work, port)]
        processor = start_processor(work, work / "scored-annotate.yaml")
        others.append(start_envoy(work, port, ext_proc=processor.port))
        others[-1].also = processor.process
        self._hops += [*others, processor]
        return self._measured([*hops, *others], {shape: (PATH, shape) for shape in SHAPES})

    def wide(self) -> Table_:
        """The same for hops that are quick, with an upstream whose windows hold nothing back."""
        self._window = WIDE
        self._answer_with(framed(response(self.observations, 0)))
        slow = ("ext_proc", "aio", "processor")
        quick = [Hop("direct", self._port), *(hop for hop in self._hops if not any(word in hop.name for word in slow))]
        found = self._measured(quick, {shape: (PATH, shape) for shape in SHAPES})
        self._window = NARROW
        self._answer_with(framed(response(self.observations, 0)))
        return found

    def same_load(self, most: float) -> Table_:
        """As many requests a second for each hop: a share of the most that Envoy answers."""
        rate = LOADED * most
        found: Table_ = {}
        self._fill(found, f"{rate:,.0f} requests/s", PATH, SHAPES["16x16"]._replace(rate=rate), self._some())
        return found

    def sizes(self) -> Table_:
        """Responses from small to large, 4x4; the smallest lacks what detectors read, and is for those who do not
        judge.
        """
        found: Table_ = {}
        self._answer_with(framed(smallest(self.observations)))
        unjudged = [hop for hop in self._some() if not hop.name.startswith("scored")]
        self._fill(found, SMALLEST, PATH, Shape(4, 4, 4_000), unjudged)
        for name, padding in SIZES.items():
            self._answer_with(framed(response(self.observations, 0, padding=padding)))
            shape = Shape(4, 4, 4_000 if padding < 100_000 else 800 if padding < 1_000_000 else 160)
            self._fill(found, name, PATH, shape, self._some())
        return found

    def streams(self) -> Table_:
        """Responses that are a stream of so many messages, figures for a whole stream."""
        self._answer_with(stream(response(self.observations, 0), MESSAGES), STREAM_PATH)
        found: Table_ = {}
        self._fill(found, f"{MESSAGES:,} messages", STREAM_PATH, Shape(2, 2, 60), self._some())
        self._answer_with(framed(response(self.observations, 0)))
        return found

    def tls(self) -> Table_:
        """The first table's middle shape, TLS towards callers."""
        pair = Authority(self._work / "tls").sign("localhost")
        more = f"tls: {{certificate: {pair[0]}, key: {pair[1]}}}\n"
        hops = [
            self._relay(f"{mode}, TLS", mode, scored=mode != "observe", more=more)
            for mode in ("observe", "annotate", "enforce")
        ]
        for hop in hops:
            hop.tls = True
        others = [start_nginx(self._work, self._port, pair), start_envoy(self._work, self._port, pair=pair)]
        self._hops += others
        return self._measured([*hops, *others], {"4x8": (PATH, "4x8")})

    def workers(self) -> Table_:
        """One process and two, every response judged."""
        hops = []
        for workers in (1, 2):
            more = f"workers: {workers}\n"
            hops.append(self._relay(f"scored annotate, {workers} workers", "annotate", scored=True, more=more))
        return self._measured(hops, {"16x16": (PATH, "16x16")})

    def telling(self) -> Table_:
        """Every response judged, with nobody told, and with everybody: metrics, spans of 1%, an event file. All of the
        responses are safe, or all of them alarm.
        """
        scores = Bundle.read(self._bundle)
        severities = scores.require_promise().judge(scores.scorer(self.observations)).severities
        found: Table_ = {}
        with Receiver() as receiver:
            telling = f"opentelemetry: {{endpoint: '{receiver.url}', protocol: http, traces: 0.01}}\n"
            telling += f"events: {{to: [{{file: {self._work / 'alarms.jsonl'}}}]}}\n"
            hops = []
            for name, more in ((UNTOLD, "page: false\n"), (TOLD, telling)):
                settings, counts = self._scored, name == TOLD
                hops.append(start_relay(name, self._work, self._port, "observe", settings, more, counts=counts))
            self._hops += hops
            for kind, row in (("safe", severities.index(None)), ("alarmed", severities.index("critical"))):
                self._answer_with(framed(response(self.observations, row)))
                seen: list[list[Figures]] = []
                for number in range(TELLING_ROUNDS * self._rounds):
                    turn = hops if number % 2 else hops[::-1]
                    pair = {hop.name: load(hop, PATH, self._request, SHORT) for hop in turn}
                    seen.append([pair[UNTOLD], pair[TOLD]])
                for at, name in enumerate((UNTOLD, TOLD)):
                    found.setdefault(name, {})[kind] = medians([pair[at] for pair in seen[2:]])
                self.telling_us[kind] = statistics.median(told.cpu_us - untold.cpu_us for untold, told in seen[2:])
                console.print(f"telling of what is {kind} measured")
        return found

    def _some(self) -> list[Hop]:
        relays = ("observe", "scored observe", "scored annotate", "scored enforce")
        names = {named(name, compiled) for name in relays for compiled in kinds()} | {"nginx", "envoy"}
        return [Hop("direct", self._port), *(hop for hop in self._hops if hop.name in names)]

    def _fill(self, found: Table_, column: str, path: str, shape: Shape, hops: list[Hop]) -> None:
        seen: dict[str, list[Figures]] = {}
        for number in range(1 + self._rounds):
            for hop in hops:
                figures = load(
                    hop, path, self._request, shape._replace(requests=max(8, shape.requests // (1 if number else 4)))
                )
                if number:  # the first is to warm up
                    seen.setdefault(hop.name, []).append(figures)
        for name, several in seen.items():
            found.setdefault(name, {})[column] = medians(several)
        console.print(f"{column} measured")

    def _measured(self, hops: list[Hop], columns: dict[str, tuple[str, str]]) -> Table_:
        """Medians by hop and shape, every hop measured once a round."""
        seen: dict[tuple[str, str], list[Figures]] = {}
        for number in range(1 + self._rounds):
            for column, (path, name) in columns.items():
                for hop in hops:
                    slow = "ext_proc" in hop.name or "aio" in hop.name
                    shape = (SLOW if slow else SHAPES)[name]
                    if not number:
                        shape = shape._replace(requests=shape.requests // 4)
                    figures = load(hop, path, self._request, shape)
                    if number:
                        seen.setdefault((hop.name, column), []).append(figures)
            console.print(f"round {number} of {self._rounds}" if number else "warm")
        found: Table_ = {}
        for (name, column), several in seen.items():
            found.setdefault(name, {})[column] = medians(several)
        return found

    def end(self) -> None:
        """End every process."""
        for hop in (self._upstream, *self._hops):
            if hop.process is not None:
                hop.process.terminate()
                hop.process.wait()


def told_us(more: dict[str, float], share: float) -> float:
    """What telling adds to a response, where such a share of them alarms."""
    return (1 - share) * more["safe"] + share * more["alarmed"]


def checks(results: Table_, where: str = "") -> list[Check]:
    """The targets, as ratios to Envoy in the same run."""
    envoy, direct = results["envoy"], results["direct"]
    found = []

    def cpu(name: str, limits: dict[str, float]) -> None:
        for shape, limit in limits.items():
            ratio = results[name][shape].cpu_us / envoy[shape].cpu_us
            found.append(at_most(f"{where}{name} {shape}: CPU of Envoy's", ratio, limit))

    for compiled in kinds():
        cpu(named("observe", compiled), CPU_UNSCORED)
        cpu(named("annotate", compiled), CPU_UNSCORED)
        cpu(named("enforce", compiled), CPU_ENFORCED)
        cpu(named("scored annotate", compiled), CPU_SCORED)
    for name in [named(mode, compiled) for compiled in kinds() for mode in ("observe", "annotate")]:
        added = results[name]["1x1"].latency_us - direct["1x1"].latency_us
        envoys = envoy["1x1"].latency_us - direct["1x1"].latency_us
        found.append(at_most(f"{where}{name} 1x1: added latency of Envoy's", added / envoys, LATENCY_1X1))
    judged = {name: {shape: results[name][shape] for shape in ("4x8", "16x16")} for name in results}
    return found + tail_checks(judged, ["scored annotate", "scored enforce"], where)


def tail_checks(results: Table_, names: Sequence[str], where: str = "") -> list[Check]:
    """How much longer the slowest of a hundred wait than Envoy's."""
    found = []
    for name in [named(mode, compiled) for compiled in kinds() for mode in names]:
        for shape, figures in results[name].items():
            longer = figures.p99_us - results["envoy"][shape].p99_us
            found.append(at_most(f"{where}{name} {shape}: p99 beyond Envoy's, us", longer, P99))
    return found


def print_table(name: str, results: Table_) -> None:
    columns = list(next(iter(results.values())))
    table = Table("hop", *columns, title=f"{name}: CPU of the hop a request / mean latency / p99 / requests a second")
    show: Callable[[Any], str] = lambda f: (  # noqa: E731
        f"{f.cpu_us:,.1f} us / {f.latency_us:,.0f} / {f.p99_us:,.0f} us / {f.requests_per_s:,.0f}"
    )
    for hop, row in results.items():
        table.add_row(hop, *(show(row[column]) if column in row else "" for column in columns))
    console.print(table)


def print_spent(spent: dict[str, dict[str, float]]) -> None:
    steps = list(next(iter(spent.values())))
    table = Table("step", *spent, title="What judging a response is spent on, CPU us a response")
    for step in steps:
        table.add_row(step, *(f"{column[step]:.1f}" for column in spent.values()))
    table.add_row("together", *(f"{sum(column.values()):.1f}" for column in spent.values()))
    console.print(table)
    console.print(
        "Frames are what the unscored rows above cost; the rest of a scored row is Python around these steps."
    )


if __name__ == "__main__":
    main()
