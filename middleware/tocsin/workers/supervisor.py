"""The supervisor starts workers, restarts those that die, and shows their metrics and health as one."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tocsin.admin import AdminServer
from tocsin.configuration.config import Config
from tocsin.errors import ConfigError, ReloadError, StartError
from tocsin.events.alarm import Event
from tocsin.events.health import families as event_families
from tocsin.ext_proc.health import COUNTED
from tocsin.ext_proc.health import families as ext_proc_families
from tocsin.judgement.guard import Guard
from tocsin.observability import HttpEndpoint, open_endpoint
from tocsin.opinions.health import families as opinion_families
from tocsin.opinions.health import lasting_facts as lasting_opinions
from tocsin.opinions.models import opinion_models
from tocsin.recording import sampling
from tocsin.relay.health import Facts, families, lasting_facts, summed_facts
from tocsin.reloading import in_words, read_anew, reload_handler, within_deadline
from tocsin.sinks.events import EVENTS_IN_MEMORY
from tocsin.sinks.prometheus import PrometheusSink
from tocsin.telemetry.sending import Telemetry
from tocsin.telemetry.sending import families as export_families
from tocsin.workers.process import WorkerProcess

log = logging.getLogger("tocsin")

MIN_BACKOFF, MAX_BACKOFF = 0.1, 5.0  # seconds before a worker that died is started again
STABLE_AFTER = 10.0  # seconds after which a worker counts as well


class Supervisor:
    """Runs `config.workers` workers of one configuration file. Raises ConfigError where workers would not keep the
    promise, StartError from `run`.
    """

    def __init__(self, config: Config, guard: Guard, path: Path) -> None:
        check_workers(config, guard)
        self.config = config
        self.guard = guard
        self.metrics = PrometheusSink({**guard.models, **opinion_models(config)})
        self._path = path
        self._rest = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._rest)
        self._rest.register(self)
        self._rest.register(guard.state)
        self._telemetry = None if config.opentelemetry is None else Telemetry(config.opentelemetry)
        self._workers: dict[int, WorkerProcess] = {}
        self._retired: Facts = {}
        self._alarms: deque[Event] = deque(maxlen=EVENTS_IN_MEMORY)
        self._restarts = 0
        self._ready = False
        self._ended_by = signal.SIGINT  # unless SIGTERM comes: then callers may still come too
        self._reloads = {"done": 0, "failed": 0}
        self._reloading = asyncio.Lock()
        self._hang_ups: set[asyncio.Task[None]] = set()  # not waited for at the end
        self._reserved: list[socket.socket] = []
        self.http: HttpEndpoint | None = None

    async def run(self, started: Callable[[], None], until: asyncio.Event) -> None:
        """Start, call `started` when all workers listen, and serve until SIGTERM, SIGINT or `until`; then drain."""
        loop = asyncio.get_running_loop()

        def end(number: signal.Signals) -> None:
            if until.is_set():  # one more: workers need not wait for last callers
                self._end_workers(number)
            self._ended_by = number
            until.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, partial(end, number))
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        keeping: list[asyncio.Task[None]] = []
        self._reserve()
        async with AsyncExitStack() as opened:
            folder = opened.enter_context(_shared_folder())
            self.http = open_endpoint(
                self.config,
                self.metrics,
                self._rest,
                self._alarms,
                is_ready=lambda: self.is_ready,
                mode=lambda: self.config.mode,
            )
            if self.http is not None:
                opened.callback(self.http.close)
            admin = None
            if self.config.admin is not None:
                admin = AdminServer(self.config, [reload_handler(self.reload)])
                await admin.start()
                opened.push_async_callback(admin.stop)
            first = [WorkerProcess(number, self._path, folder) for number in range(self.config.workers)]
            self._workers = {worker.number: worker for worker in first}
            await asyncio.gather(*(worker.start() for worker in first))
            keeping += [loop.create_task(self._keep(worker)) for worker in first]
            try:
                await self._all_ready(until)
                self._ready = not until.is_set()
                self.guard.state.share(self.metrics.exchange)
                if self._telemetry is not None:
                    self._telemetry.send(lambda: [*self.metrics.collect(), *self._rest.collect()])
                if admin is not None:
                    readiness = loop.create_task(admin.follow_readiness(lambda: self.is_ready))
                    opened.callback(readiness.cancel)
                started()
                await until.wait()
                log.info("draining")
            finally:
                self._ready = False
                if admin is not None:
                    await admin.drain()
                self._end_workers(self._ended_by)
                await asyncio.gather(*keeping)
                await asyncio.to_thread(self.guard.state.close)
                if self._telemetry is not None:
                    await asyncio.to_thread(self._telemetry.close)

    def _end_workers(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            worker.end(number)

    @property
    def is_ready(self) -> bool:
        """Whether every worker accepts new calls."""
        return self._ready and not any(
            any(worker.relay.get("unready", {}).values()) for worker in self._workers.values()
        )

    async def reload(self) -> str:
        """Have every worker reload. Raises ReloadError when one cannot; that worker keeps its old configuration."""
        return await asyncio.shield(asyncio.ensure_future(self._reload()))

    async def _reload(self) -> str:
        """Have the workers reload, one reload at a time."""
        async with self._reloading:
            try:
                config, models, promises = await within_deadline(read_anew, self._path, self.guard)
                results = await asyncio.gather(*(worker.reload() for worker in self._workers.values()))
                self.metrics.follow({**models, **promises})
                self.guard.reconfigure(config, models)
            except Exception as error:
                self._reloads["failed"] += 1
                why = in_words(error)
                log.error("reloading failed, and the old configuration stays in force: %s", why)
                raise ReloadError(why) from None
            finally:
                gc.collect()  # as in `Reloader.reload`
            self.config = config
            self._reloads["done"] += 1
            changed = f"{len(results)} workers: {results[0]}"
            log.info("reloaded: %s", changed)
            return changed

    def collect(self) -> Iterable[Metric]:
        """The health of all relays added up, and that of the workers."""
        facts = self._telemetry.facts() if self._telemetry is not None else {}
        every = summed_facts([self._retired, *(worker.relay for worker in self._workers.values()), facts])
        yield from (*families(every), *ext_proc_families(every), *event_families(every), *export_families(every))
        yield from opinion_families(every)
        yield from sampling.families(every) if self.config.record is not None else ()
        up = GaugeMetricFamily("tocsin_workers", "Worker processes that are serving.")
        up.add_metric([], sum(worker.ready.is_set() for worker in self._workers.values()))
        restarts = CounterMetricFamily("tocsin_worker_restarts", "Workers that died and were started again.")
        restarts.add_metric([], self._restarts)
        reloads = CounterMetricFamily(
            "tocsin_reloads", "Reloads of the configuration while serving.", labels=["outcome"]
        )
        for outcome, count in self._reloads.items():
            reloads.add_metric([outcome], count)
        yield from (up, restarts, reloads)

    async def _keep(self, worker: WorkerProcess) -> None:
        """Read a worker's reports, and restart it when it dies."""
        wait = MIN_BACKOFF
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            async for report in worker.reports():
                self.metrics.merge(report["metrics"])
                worker.relay = report["relay"]
                self._alarms += report["alarms"]
            processed = {name: counts for name, counts in worker.relay.items() if name in COUNTED}
            self._retired = summed_facts(
                [
                    self._retired,
                    lasting_facts(worker.relay),
                    sampling.lasting_facts(worker.relay),
                    lasting_opinions(worker.relay),
                    processed,
                ]
            )
            worker.relay = {}
            code = await worker.wait_for_end()
            if worker.is_ending():
                return
            wait = MIN_BACKOFF if loop.time() - since > STABLE_AFTER else min(2 * wait, MAX_BACKOFF)
            log.error("worker %d ended with %s; starting it again in %.1f s", worker.number, code, wait)
            await asyncio.sleep(wait)
            if worker.is_ending():
                return
            self._restarts += 1
            await worker.start()

    async def _all_ready(self, until: asyncio.Event) -> None:
        stopped = asyncio.create_task(until.wait())
        for worker in self._workers.values():
            ready = asyncio.create_task(worker.ready.wait())
            await asyncio.wait([ready, stopped], return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
        stopped.cancel()

    def _hang_up(self) -> None:
        if len(self._hang_ups) > 1:
            return  # one reload is under way, and the next one will read what the file says then
        task = asyncio.get_running_loop().create_task(self._reload_told())
        self._hang_ups.add(task)
        task.add_done_callback(self._hang_ups.discard)

    async def _reload_told(self) -> None:
        with suppress(ReloadError):  # it is in the log and in the metrics
            await self.reload()

    def _reserve(self) -> None:
        """Bind the workers' ports without listening, so that an address that is not available fails here."""
        addresses = [listener.listen for listener in self.config.every_listener]
        addresses += [] if self.config.ext_proc is None else [self.config.ext_proc]
        for listen in addresses:
            family, _, _, _, where = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)[0]
            bound = socket.socket(family)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                bound.bind(where)
            except OSError as error:
                raise StartError(f"cannot listen on {listen}: {error.strerror or error}") from error
            self._reserved.append(bound)


@contextmanager
def _shared_folder() -> Iterator[str]:
    """A folder for files that workers share; "" where no disk is writable, so that each has its own."""
    try:
        temporary = tempfile.TemporaryDirectory(prefix="tocsin-")
    except OSError:
        log.info("no folder for temporary files can be written: each worker holds its bundles' weights by itself")
        yield ""
        return
    with temporary as folder:
        yield folder


def check_workers(config: Config, guard: Guard) -> None:
    """Raises ConfigError where several workers could not share a port, or would break the promise."""
    addresses = [listener.listen for listener in config.every_listener]
    addresses += [] if config.ext_proc is None else [config.ext_proc]
    for address in addresses:
        if address.path or not address.port:
            raise ConfigError(f"workers: {address} cannot be shared: listen on a TCP port, or set workers: 1")
    for name, model in guard.models.items():
        if model.scoring is None:
            continue
        if model.scoring.judge.levels is not None:
            raise ConfigError(f"workers: models.{name}: levels that move are those of one process: set workers: 1")
        apart = model.scoring.promise.sessions is not None and model.config.session not in ("stream", "connection")
        if apart and config.state is None:
            raise ConfigError(
                f"workers: models.{name}: the promise is for sessions, whose calls may come to different workers: set "
                f"state, workers: 1, or session: stream or connection"
            )
