"""The run: callers, faults and watching, all at once.

Now and then all callers pause, so that what relays hold is looked at while no call is under way.
"""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import yaml

from benchmarks.harness.chat import tokens_bundle
from benchmarks.harness.parts import SIGNALS, free_port, quick_bundle
from benchmarks.report import console
from benchmarks.soak import http_calls
from benchmarks.soak.calls import Wish, observed, wished
from benchmarks.soak.faults import Faults
from benchmarks.soak.gateway import gateway
from benchmarks.soak.misbehaving import WAYS, misbehave
from benchmarks.soak.process import Part, RelayPart

MODES = ("observe", "annotate", "enforce")
HTTP_WAYS = ("http", "envoy")  # by the relay, and by Envoy, which asks the external processor
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
           ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100),
           ("grpc.max_reconnect_backoff_ms", 500)]  # fmt: skip
CALLERS = 3  # connections of each mode
AT_ONCE = (1, 1, 2, 4, 8, 16)  # calls on one of them
LONG = 4.0  # seconds after which a relay that should end is asked what it is doing, again and again
STARTS = 6.0  # seconds that a relay may take until it listens
MOST_DOWN = 60.0  # seconds that a model server may take
EVERY = 4.0  # seconds between looks at memory
BEFORE_THE_END = 3.0  # seconds in which nobody misbehaves any more
RESTS = 0.3  # seconds after the last call until it is looked at


class Soak:
    """The whole run."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        quick_bundle(folder / "soak.tocsin")
        tokens_bundle(folder / "chat.tocsin")
        self._port, self._http_port = free_port(), free_port()
        self._http_server = Part("http_server", ["benchmarks.siege.http_server", str(self._http_port)], folder)
        self._http_targets = {(mode, way): f"127.0.0.1:{free_port()}" for mode in MODES for way in HTTP_WAYS}
        self._processors = {mode: f"127.0.0.1:{free_port()}" for mode in MODES}
        self._gateways = ExitStack()
        self._server = Part("server", ["benchmarks.soak.server", str(self._port)], folder)
        self._targets: dict[str, str] = {}
        self.relays: dict[str, RelayPart] = {}
        for mode in MODES:
            self._targets[mode] = f"127.0.0.1:{free_port()}"
            self._configure(mode)
            self.relays[mode] = RelayPart(mode, folder / f"{mode}.yaml", folder)
        self.faults = Faults()
        self.calls: Counter[str] = Counter()
        self.altered: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()
        self.misbehaved: Counter[str] = Counter()
        self.differences: list[str] = []
        self._rude: dict[str, tuple[float, str]] = {}  # by mode, when its caller last began to misbehave, and how
        self.longest: dict[str, float] = {}  # by mode, how many seconds longer a call through a relay took, at most
        self.drained: list[float] = []  # seconds that relays took to end, when told to
        self.began = 0.0
        self._busy = 0  # callers
        self._may_call, self._all_rest = asyncio.Event(), asyncio.Event()

    def _configure(self, mode: str, *, broken: bool = False) -> None:
        content = {
            "listen": self._targets[mode], "upstream": f"127.0.0.1:{self._port}", "mode": mode, "metrics": None,
            "drain_delay": "0s", "ext_proc": self._processors[mode],
            "admin": None, "models": {
                "digits": {"bundle": "soak.tocsin", "signals": SIGNALS},
                "m": {"bundle": "chat.tocsin", "protocol": "openai"},
            },
            "listeners": [{
                "listen": self._http_targets[mode, "http"], "upstream": f"127.0.0.1:{self._http_port}", "model": "m",
            }],
        }  # fmt: skip
        text = "models: [" if broken else yaml.safe_dump(content)
        (self._folder / f"{mode}.yaml").write_text(text)

    async def run(self, seconds: float) -> None:
        """Traffic, faults and watching, all at once."""
        await self._ready()
        self._may_call.set()
        self.began = time.monotonic()
        ends = self.began + seconds
        callers = [self._call(mode, number, ends) for mode in MODES for number in range(CALLERS)]
        callers += [self._call_http(mode, way, ends) for mode, way in self._http_targets]
        rude = [self._misbehave(mode, ends) for mode in MODES]
        await asyncio.gather(*callers, *rude, self._break(ends), self._watch(ends))

    async def _ready(self) -> None:
        for mode in MODES:
            opened = gateway(self._folder, mode, f"127.0.0.1:{self._http_port}")
            self._http_targets[mode, "envoy"] = await asyncio.to_thread(self._gateways.enter_context, opened)
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
                await self._may_call.wait()
                self._busy += 1
                wishes = [wished(dice) for _ in range(dice.choice(AT_ONCE))]
                began = time.monotonic()
                expected = await asyncio.gather(*(observed(direct, wish) for wish in wishes))
                between = time.monotonic()
                got = await asyncio.gather(*(observed(relayed, wish) for wish in wishes))
                ended = time.monotonic()
                excuse = self.faults.excuse(began, ended)
                self._compare_times(mode, direct=between - began, relayed=ended - between)
                self._busy -= 1
                if not self._busy:
                    self._all_rest.set()
                for wish, with_it, without in zip(wishes, got, expected, strict=True):
                    self.calls[mode] += 1
                    if with_it == without:
                        continue
                    if excuse and (with_it["code"] != "OK" or without["code"] != "OK"):
                        self.excused[excuse] += 1
                    else:
                        self._blame(mode, wish, without, with_it, (began, between, ended))

    async def _call_http(self, mode: str, way: str, ends: float) -> None:
        """The same over HTTP, and to the relay now and then a caller that breaks its rules."""
        dice = random.Random(f"{self._seed} {mode} {way}")
        target, name = self._http_targets[mode, way], f"{mode}, {way}"
        at, through = f"http://127.0.0.1:{self._http_port}", f"http://{target}"
        limits = httpx.Timeout(60)
        async with (
            httpx.AsyncClient(base_url=at, timeout=limits) as direct,
            httpx.AsyncClient(base_url=through, timeout=limits) as relayed,
        ):
            while time.monotonic() < ends:
                await self._may_call.wait()
                self._busy += 1
                if way == "http" and dice.random() < 0.05:
                    how = dice.choice(http_calls.WAYS)
                    self.misbehaved[how] += 1
                    await asyncio.to_thread(http_calls.misbehave, target, how, dice.uniform(0, 0.5))
                wish, began = http_calls.wished(dice), time.monotonic()
                expected, between = await http_calls.observed(direct, wish), time.monotonic()
                got, ended = await http_calls.observed(relayed, wish), time.monotonic()
                excuse = self.faults.excuse(began, ended)
                self._compare_times(name, direct=between - began, relayed=ended - between)
                self._busy -= 1
                if not self._busy:
                    self._all_rest.set()
                self.calls[name] += 1
                if got == expected:
                    continue
                if excuse and (got["code"] != "OK" or expected["code"] != "OK"):
                    self.excused[excuse] += 1
                    continue
                failed = got["code"] != "OK" and expected["code"] == "OK"
                (self.lost if failed else self.altered)[name] += 1
                if len(self.differences) < 20:
                    self.differences.append(f"{name} {wish}: {str(expected)[:300]} -> {str(got)[:300]}")
                    console.print(self.differences[-1], style="red", markup=False)

    def _compare_times(self, mode: str, *, direct: float, relayed: float) -> None:
        """Note by how many seconds a call took longer; no fault excuses one that hangs."""
        self.longest[mode] = max(self.longest.get(mode, 0.0), relayed - direct)

    def _blame(
        self, mode: str, wish: Wish, expected: dict[str, Any], got: dict[str, Any], times: tuple[float, float, float]
    ) -> None:
        """A call differs; `times`: when its batch began, went on through the relay, and ended."""
        failed = got["code"] != "OK" and expected["code"] == "OK"
        (self.lost if failed else self.altered)[mode] += 1
        if len(self.differences) < 20:
            began, between, ended = times
            direct, relayed = between - began, ended - between
            sizes = [len(message) for message in wish.messages]
            difference = f"{mode} {wish.kind} {sizes} {wish.metadata} cancel={wish.cancel} timeout={wish.timeout}: "
            difference += "; ".join(
                f"{key}: {str(expected.get(key))[:120]} -> {str(got.get(key))[:120]}"
                for key in expected | got
                if expected.get(key) != got.get(key)
            )
            difference += (
                f" ({ended - self.began:.2f} s after the start, direct {direct:.2f} s, relayed {relayed:.2f} s; "
            )
            difference += ", ".join(
                f"caller of {other} {what} {ended - at:.2f} s before" for other, (at, what) in self._rude.items()
            )
            self.differences.append(f"{difference})")
            console.print(self.differences[-1], style="red", markup=False)

    async def _misbehave(self, mode: str, ends: float) -> None:
        """A caller that no other may notice; it pauses with the others, so that what it leaves behind is seen."""
        dice = random.Random(f"{self._seed} {mode} misbehaving")
        while time.monotonic() < ends - BEFORE_THE_END:
            await self._may_call.wait()
            self._busy += 1
            what = dice.choice(list(WAYS))
            self.misbehaved[what] += 1
            self._rude[mode] = time.monotonic(), what
            await asyncio.to_thread(misbehave, self._targets[mode], what, dice.uniform(0.0, 0.5))
            self._busy -= 1
            if not self._busy:
                self._all_rest.set()
            await asyncio.sleep(dice.uniform(0.2, 1.0))

    async def _break(self, ends: float) -> None:
        """Cause one fault after the other, with a pause between them."""
        dice = random.Random(self._seed)
        faults = [self._kill_server, self._stop_server, self._reload, self._restart_relay]
        while True:
            await asyncio.sleep(dice.uniform(6, 12))
            if time.monotonic() > ends - 12:
                return
            if time.monotonic() > (self.began + ends) / 2:  # memory is looked at over the later half, undisturbed
                faults = [fault for fault in faults if fault != self._restart_relay]
            await dice.choice(faults)(dice)

    async def _kill_server(self, dice: random.Random) -> None:
        began = self.faults.begins("server killed")
        self._server.signal(signal.SIGKILL)
        self._server.process.wait()
        await asyncio.sleep(dice.uniform(0.1, 1))
        self._server.again()
        while time.monotonic() < began + MOST_DOWN:
            await asyncio.sleep(0.05)
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                break
        self.faults.ends()

    async def _stop_server(self, dice: random.Random) -> None:
        self.faults.lasts("server stopped", 2)
        self._server.signal(signal.SIGSTOP)
        await asyncio.sleep(dice.uniform(0.2, 1.5))
        self._server.signal(signal.SIGCONT)

    async def _reload(self, dice: random.Random) -> None:
        """No call may notice this."""
        mode = dice.choice(MODES)
        self._configure(mode, broken=True)
        self.relays[mode].signal(signal.SIGHUP)
        await asyncio.sleep(1)
        self._configure(mode)
        self.relays[mode].signal(signal.SIGHUP)

    async def _restart_relay(self, dice: random.Random) -> None:
        """Until it has ended it finishes what is under way and takes no new connection; then the next one starts."""
        mode = dice.choice(MODES)
        relay, began = self.relays[mode], self.faults.begins("relay restarted")
        relay.signal(signal.SIGTERM)
        questions = 0
        while relay.process.poll() is None:
            await asyncio.sleep(0.05)
            if time.monotonic() - began > LONG * (questions + 1):
                questions += 1
                relay.signal(signal.SIGUSR1)  # it logs where it is
        self.drained.append(time.monotonic() - began)
        relay.again()
        self.faults.ends(within=STARTS)

    async def _watch(self, ends: float) -> None:
        while time.monotonic() < ends - EVERY:
            await asyncio.sleep(EVERY)
            self._may_call.clear()
            self._all_rest.clear()
            if self._busy:
                await self._all_rest.wait()
            await asyncio.sleep(RESTS)
            for relay in self.relays.values():
                await asyncio.to_thread(relay.sample)
            self._may_call.set()

    def end(self) -> None:
        """End every process."""
        self._gateways.close()
        for part in (self._server, self._http_server, *self.relays.values()):
            part.end()
