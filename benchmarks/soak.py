"""Mixed traffic through all three modes for minutes, while things are broken on purpose.

Every call is made twice, to the model server itself and through a relay, and everything that a caller can observe is
compared: messages, status, details, metadata. Meanwhile the model server is killed, stopped and started again, relays
are told to reload broken and good files, and one is ended and started again. A call that overlaps such a fault may
fail; it may never be altered. Memory and file descriptors of the relays are watched.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import scipy.stats
import yaml
from rich.table import Table
from tests.parts import INFER, SIGNALS, STREAM_INFER, quick_bundle

from benchmarks.dataplane.hops import free_port
from benchmarks.report import arguments as command_line
from benchmarks.report import at_most, console, finish
from tocsin.verdict import METADATA_KEY

MODES = ("observe", "annotate", "enforce")
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
           ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100),
           ("grpc.max_reconnect_backoff_ms", 500)]  # fmt: skip
SIZES = (0, 1, 100, 1_000, 10_000, 16_384, 65_536, 200_000, 1_000_000, 20_000_000)
WEIGHTS = (4, 4, 10, 20, 20, 8, 8, 4, 1, 0.05)
CALLERS = 3  # connections of each mode
AT_ONCE = (1, 1, 2, 4, 8, 16)  # calls on one of them
SETTLES = 3.0  # seconds after a fault in which calls may still fail
SLOPE = 1.0  # MB an hour
BLOCKS = 12  # of samples, whose medians are fitted


class Wish(NamedTuple):
    """One call: its kind, what it sends, and what it asks for."""

    kind: str
    messages: tuple[bytes, ...]
    metadata: tuple[tuple[str, Any], ...]
    gzip: bool
    timeout: float
    cancel: bool


def main() -> None:
    options = command_line(
        __doc__ or "",
        minutes={"type": float, "default": 10.0, "help": "how long"},
        seed={"type": int, "default": 0, "help": "of the traffic"},
    )
    with tempfile.TemporaryDirectory(prefix="tocsin-soak-") as folder:
        soak = Soak(Path(folder), options.seed)
        try:
            asyncio.run(soak.run(options.minutes * 60))
        finally:
            soak.end()
    soak.tell()
    finish(soak.results(), soak.checks(), options.json)


class Part:
    """A process that can be killed and started again."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self._command = command
        self._log = (folder / f"{name}.log").open("ab")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdout=self._log, stderr=self._log)

    def again(self) -> None:
        """Start it anew."""
        self.process = self._start()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def resident(self) -> float:
        """Megabytes that it has to itself."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


class Soak:
    """The whole run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        quick_bundle(folder / "soak.tocsin")
        self._port = free_port()
        self._server = Part("server", [sys.executable, "-m", "benchmarks.soak_server", str(self._port)], folder)
        self._targets: dict[str, str] = {}
        self._relays: dict[str, Part] = {}
        for mode in MODES:
            self._targets[mode] = f"127.0.0.1:{free_port()}"
            self._configure(mode)
            command = [sys.executable, "-m", "tocsin", "serve", "-c", str(folder / f"{mode}.yaml")]
            self._relays[mode] = Part(mode, command, folder)
        self._windows: list[tuple[float, float, str]] = []
        self.calls: Counter[str] = Counter()
        self.altered: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()
        self.samples: dict[str, list[tuple[float, float, int]]] = {mode: [] for mode in MODES}
        self._told: list[str] = []
        self._from = 0.0

    def _configure(self, mode: str, *, broken: bool = False) -> None:
        content = {
            "listen": self._targets[mode], "upstream": f"127.0.0.1:{self._port}", "mode": mode, "metrics": None,
            "admin": None, "models": {"digits": {"bundle": "soak.tocsin", "signals": SIGNALS}},
        }  # fmt: skip
        text = "models: [" if broken else yaml.safe_dump(content)
        (self._folder / f"{mode}.yaml").write_text(text)

    async def run(self, seconds: float) -> None:
        """Traffic, faults and watching, all at once."""
        await self._ready()
        self._from = time.monotonic()
        ends = self._from + seconds
        callers = [self._call(mode, number, ends) for mode in MODES for number in range(CALLERS)]
        await asyncio.gather(*callers, self._break(ends), self._watch(ends))

    async def _ready(self) -> None:
        for target in (f"127.0.0.1:{self._port}", *self._targets.values()):
            async with grpc.aio.insecure_channel(target) as channel:
                await asyncio.wait_for(channel.channel_ready(), 60)

    async def _call(self, mode: str, number: int, ends: float) -> None:
        dice = random.Random(f"{self._seed} {mode} {number}")
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options=OPTIONS) as direct,
            grpc.aio.insecure_channel(self._targets[mode], options=OPTIONS) as relayed,
        ):
            while time.monotonic() < ends:
                wishes = [_wish(dice) for _ in range(dice.choice(AT_ONCE))]
                began = time.monotonic()
                expected = await asyncio.gather(*(_made(direct, wish) for wish in wishes))
                got = await asyncio.gather(*(_made(relayed, wish) for wish in wishes))
                excuse = self._excuse(began, time.monotonic())
                for wish, with_it, without in zip(wishes, got, expected, strict=True):
                    self.calls[mode] += 1
                    if with_it == without:
                        continue
                    if excuse and (with_it["code"] != "OK" or without["code"] != "OK"):
                        self.excused[excuse] += 1
                    else:
                        self._blame(mode, wish, without, with_it)

    def _excuse(self, began: float, ended: float) -> str:
        return next((what for start, stop, what in self._windows if began < stop and ended > start), "")

    def _blame(self, mode: str, wish: Wish, expected: dict[str, Any], got: dict[str, Any]) -> None:
        failed = got["code"] != "OK" and expected["code"] == "OK"
        (self.lost if failed else self.altered)[mode] += 1
        what = [key for key in expected if expected.get(key) != got.get(key)]
        if len(self._told) < 20:
            sizes = [len(message) for message in wish.messages]
            told = f"{mode} {wish.kind} {sizes} cancel={wish.cancel} timeout={wish.timeout}: " + "; ".join(
                f"{key}: {str(expected[key])[:120]} -> {str(got.get(key))[:120]}" for key in what
            )
            told += f" ({got.get('details', '')})"
            self._told.append(told)
            console.print(f"[red]{told}[/]")

    async def _break(self, ends: float) -> None:
        """One fault after the other, with calm between."""
        dice = random.Random(self._seed)
        faults = [self._kill_server, self._stop_server, self._reload, self._restart_relay]
        while True:
            await asyncio.sleep(dice.uniform(6, 12))
            if time.monotonic() > ends - 12:
                return
            if time.monotonic() > (self._from + ends) / 2:  # memory is looked at over the later half, undisturbed
                faults = [fault for fault in faults if fault != self._restart_relay]
            await dice.choice(faults)(dice)

    async def _within(self, what: str, seconds: float) -> int:
        self._windows.append((time.monotonic() - 0.5, time.monotonic() + seconds + SETTLES, what))
        return len(self._windows) - 1

    async def _kill_server(self, dice: random.Random) -> None:
        await self._within("server killed", 4)
        self._server.signal(signal.SIGKILL)
        self._server.process.wait()
        await asyncio.sleep(dice.uniform(0.1, 1))
        self._server.again()

    async def _stop_server(self, dice: random.Random) -> None:
        await self._within("server stopped", 2)
        self._server.signal(signal.SIGSTOP)
        await asyncio.sleep(dice.uniform(0.2, 1.5))
        self._server.signal(signal.SIGCONT)

    async def _reload(self, dice: random.Random) -> None:
        """No call may notice this."""
        mode = dice.choice(MODES)
        self._configure(mode, broken=True)
        self._relays[mode].signal(signal.SIGHUP)
        await asyncio.sleep(1)
        self._configure(mode)
        self._relays[mode].signal(signal.SIGHUP)

    async def _restart_relay(self, dice: random.Random) -> None:
        mode = dice.choice(MODES)
        await self._within("relay restarted", 8)
        relay = self._relays[mode]
        relay.signal(signal.SIGTERM)
        while relay.process.poll() is None:
            await asyncio.sleep(0.05)
        self.samples[mode].clear()
        relay.again()

    async def _watch(self, ends: float) -> None:
        while time.monotonic() < ends:
            await asyncio.sleep(2)
            for mode, relay in self._relays.items():
                if relay.process.poll() is None:
                    sample = time.monotonic() - self._from, relay.resident(), relay.descriptors()
                    self.samples[mode].append(sample)

    def end(self) -> None:
        """End every process."""
        for part in (self._server, *self._relays.values()):
            part.process.kill()
            part.process.wait()

    def slope(self, mode: str) -> tuple[float, float]:
        """Megabytes an hour over the later half of the time since the relay was last started, and how far noise may
        take that with probability 1%: large messages come and go, so that ten minutes alone tell little of an hour.
        """
        later = np.array([sample[:2] for sample in self.samples[mode][len(self.samples[mode]) // 2 :]])
        if len(later) < 2 * BLOCKS:
            return 0.0, math.inf
        times, sizes = np.array([np.median(block, axis=0) for block in np.array_split(later, BLOCKS)]).T
        fitted = scipy.stats.linregress(times / 3_600, sizes)
        return float(fitted.slope), float(scipy.stats.t.ppf(0.99, BLOCKS - 2) * fitted.stderr)

    def results(self) -> dict[str, Any]:
        """What happened, by mode."""
        return {
            "modes": {
                mode: {
                    "calls": self.calls[mode],
                    "altered": self.altered[mode],
                    "lost": self.lost[mode],
                    "slope_mb_an_hour": self.slope(mode)[0],
                    "noise_mb_an_hour": self.slope(mode)[1],
                    "resident_mb": statistics.median(s[1] for s in self.samples[mode]),
                    "descriptors": sorted({s[2] for s in self.samples[mode]}),
                    "memory": [[round(at), round(size, 2)] for at, size, _ in self.samples[mode]],
                }
                for mode in MODES
            },
            "faults": Counter(what for _, _, what in self._windows),
            "excused": dict(self.excused),
            "told": self._told,
        }

    def tell(self) -> None:
        table = Table("mode", "calls", "altered", "lost", "memory", "grows an hour", "descriptors", title="Soak")
        for mode, row in self.results()["modes"].items():
            few, many = min(row["descriptors"]), max(row["descriptors"])
            table.add_row(
                mode, f"{row['calls']:,}", str(row["altered"]), str(row["lost"]), f"{row['resident_mb']:.1f} MB",
                f"{row['slope_mb_an_hour']:+.2f} ± {row['noise_mb_an_hour']:.2f} MB", f"{few} to {many}",
            )  # fmt: skip
        console.print(table)
        console.print(f"faults: {dict(self.results()['faults'])}; calls that failed in them: {dict(self.excused)}")

    def checks(self) -> list[Any]:
        found = [
            at_most("responses altered", sum(self.altered.values()), 0),
            at_most("calls lost beyond the faults", sum(self.lost.values()), 0),
        ]
        for mode in MODES:
            slope, noise = self.slope(mode)
            found.append(at_most(f"{mode}: memory grows more than noise, MB an hour", max(0.0, slope - noise), SLOPE))
            few = [s[2] for s in self.samples[mode]]
            found.append(at_most(f"{mode}: file descriptors, most over median", max(few) - statistics.median(few), 16))
        return found


def _wish(dice: random.Random) -> Wish:
    kind = dice.choice(("unary", "unary", "infer", "infer", "infer", "down", "up", "both", "stream infer"))
    size = dice.choices(SIZES, WEIGHTS)[0]
    many = dice.randint(0, 6) if kind in ("up", "both", "stream infer") and size < 1_000_000 else 1
    known = kind in ("infer", "stream infer") and dice.random() < 0.8
    fill = dice.randbytes(1) or b"x"
    messages = tuple(b"safe %d" % dice.randrange(40) if known else fill * size for _ in range(many))
    metadata: list[tuple[str, Any]] = [("x-one", "1"), ("x-blob-bin", dice.randbytes(dice.randrange(40)))]
    if dice.random() < 0.15:
        metadata.append(("compress", "gzip"))
    if dice.random() < 0.08:
        metadata.append(("fail", dice.choice(("NOT_FOUND", "DATA_LOSS", "RESOURCE_EXHAUSTED"))))
    late = dice.random() < 0.02
    if late:
        metadata.append(("sleep", "0.6"))
    cancel = kind == "down" and dice.random() < 0.3
    if kind == "down":
        metadata += [("count", str(dice.randint(0, 20)))] + ([("pause", "0.02")] if cancel else [])
    return Wish(kind, messages, tuple(metadata), dice.random() < 0.15, 0.2 if late else 60.0, cancel)


async def _made(channel: grpc.aio.Channel, wish: Wish) -> dict[str, Any]:
    """Everything that a caller observes of a call."""
    method = {"infer": INFER, "stream infer": STREAM_INFER}.get(wish.kind, f"/test.Model/{wish.kind.title()}")
    more: dict[str, Any] = {"metadata": wish.metadata, "timeout": wish.timeout}
    if wish.gzip:
        more["compression"] = grpc.Compression.Gzip
    received: list[bytes] = []
    if wish.kind in ("unary", "infer"):
        call: Any = channel.unary_unary(method)(wish.messages[0], **more)
    elif wish.kind == "up":
        call = channel.stream_unary(method)(_each(wish.messages), **more)
    elif wish.kind == "down":
        call = channel.unary_stream(method)(wish.messages[0], **more)
    else:
        call = channel.stream_stream(method)(_each(wish.messages), **more)
    try:
        if wish.kind in ("unary", "infer", "up"):
            received.append(await call)
        else:
            async for message in call:
                received.append(message)
                if wish.cancel and len(received) == 2:
                    call.cancel()
    except (grpc.RpcError, asyncio.CancelledError):
        pass
    code = (await call.code()).name
    if wish.timeout < 1 and code != "OK":  # grpcio tells a deadline in several ways, by whose clock ends it, also alone
        return {"code": "late"}
    if wish.cancel or code == "DEADLINE_EXCEEDED":  # how far it came is a matter of time
        return {"code": code if code != "OK" else "CANCELLED"}
    trailing = await call.trailing_metadata() or ()
    return {
        "code": code,
        "details": await call.details() or "",
        "messages": [len(received), hashlib.sha256(b"|".join(received)).hexdigest()],
        "initial": sorted(map(str, await call.initial_metadata() or ())),
        "trailing": sorted(str(pair) for pair in trailing if pair[0] != METADATA_KEY),
    }


async def _each(messages: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


if __name__ == "__main__":
    main()
