"""The server as a whole: opens its ports, loads its models, serves, drains.

`Server` is for whoever owns a loop (tests, embedders); `run` owns the process and its signals.
"""

import asyncio
import dataclasses
import enum
import functools
import importlib.metadata
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from cadenza.server.config import Settings
from cadenza.server.errors import StartupError
from cadenza.server.http import Calls, HttpServer, OpenAiApi, http_app
from cadenza.server.metrics import Metrics
from cadenza.server.model_factory import ModelFactory
from cadenza.server.models import ModelTable
from cadenza.server.rpc.call_records import CallRecords, Tracer
from cadenza.server.rpc.credentials import Credentials
from cadenza.server.rpc.server import GrpcServer
from cadenza.server.runner.loading import OnCompile, RunnerLoader, choose_loader
from cadenza.server.sources import choose_source
from cadenza.server.swapping import VersionManager
from cadenza.server.watchdog import Watchdog

_log = structlog.get_logger(__name__)
_LAST_MESSAGES_SECONDS = 5.0
"""How long clients may take to read the ends of their streams once the engines have stopped."""

_LAST_SPANS_SECONDS = 3.0
"""How long the collector may take to read the last spans."""

_SWITCH_SECONDS = 2e-4
"""How long the loop may hold Python's lock while an engine waits for it between two steps."""

MakeLoader = Callable[[Settings, OnCompile], RunnerLoader]
MakeTracer = Callable[[Settings, str], Tracer | None]


class ExitCode(enum.IntEnum):
    """How the process ends; `cadenza-server --help` lists them."""

    DRAINED = 0
    NOT_STARTED = 1
    WRONG_FLAGS = 2
    ENGINE_FAILED = 3
    FORCED = 4


def choose_tracer(settings: Settings, version: str) -> Tracer | None:
    """None where tracing is off; `version` is the server's.

    Raises StartupError where it is on and its packages are not installed.
    """
    if settings.otlp_endpoint is None:
        return None
    try:
        from cadenza.server.tracing import OpenTelemetryTracer
    except ImportError as error:
        raise StartupError(
            f"--otlp-endpoint needs packages that are not installed ({error}); install cadenza[tracing]"
        ) from error
    return OpenTelemetryTracer.to_collector(settings.otlp_endpoint, server_version=version)


@dataclasses.dataclass(frozen=True, slots=True)
class Ports:
    """Where the server listens. `health` is that of health checks alone; None where there is none."""

    grpc: int
    http: int
    health: int | None


class Server:
    """Serves models on a gRPC and an HTTP port. Start it, load it, and stop it, on one loop."""

    def __init__(
        self,
        settings: Settings,
        make_loader: MakeLoader = choose_loader,
        clock: Callable[[], float] = time.monotonic,
        make_tracer: MakeTracer = choose_tracer,
    ) -> None:
        """`make_loader` is called outside the loop; `clock` gives seconds that never go back.

        Raises StartupError where certificates or tokens cannot be read, or tracing's packages are missing.
        """
        self._settings = settings
        self._registry = CollectorRegistry()
        version = importlib.metadata.version("cadenza")
        self._metrics = Metrics(self._registry, server_version=version)
        self._models = ModelTable(settings.version_labels)
        self._open = False
        """Loaded, and neither draining nor broken."""
        self._versions = VersionManager(
            choose_source(settings),
            ModelFactory(
                settings,
                functools.partial(make_loader, settings, self._metrics.compiled),
                self._metrics,
                clock,
                self._fail,
            ),
            self._models,
            self._metrics,
            clock=clock,
            poll_seconds=settings.models_poll_seconds if settings.models else 0,
            on_change=self._say_health,
        )
        self._watchdog = Watchdog(
            lambda: [model.dispatcher for model in self._models.loaded()],
            limit=settings.watchdog_seconds,
            on_change=self._say_health,
        )
        self._tracer = make_tracer(settings, version)
        records = CallRecords(clock, slow_seconds=settings.slow_request_seconds, tracer=self._tracer)
        credentials = Credentials(settings, self._metrics)
        self._grpc = GrpcServer(
            self._models, self._metrics, clock, records, settings, credentials, self._fail
        )
        api = self._openai_api(version, clock, records) if settings.serves_openai else None
        self._http = HttpServer(http_app(self._registry, lambda: self._ready, api, settings.allowed_origin))
        self.engine_failed = asyncio.Event()
        """Set when an engine, or gRPC's own loop, has broken; what is left to do is to stop."""

    async def start(self) -> Ports:
        """Opens the ports; MODEL_LOADING answers calls until `load` has ended. Raises StartupError."""
        await self._versions.find()
        host, health_port = self._settings.host, self._settings.health_port
        ports = Ports(
            grpc=await self._grpc.start(host, self._settings.port),
            http=await self._http.start(host, self._settings.http_port),
            health=None if health_port is None else await self._grpc.start_probes(host, health_port),
        )
        _log.info(
            "listening", host=host, grpc_port=ports.grpc, http_port=ports.http, health_port=ports.health
        )
        return ports

    async def load(self) -> None:
        """Loads every model, says SERVING, and follows changes from then on. Raises StartupError."""
        await self._versions.load()
        self._open = True
        self._versions.start()
        if self._settings.watchdog_seconds:
            self._watchdog.start()
        await self._say_health()

    def look_for_models(self) -> Awaitable[None]:
        """Looks for new and removed versions at once; awaiting it tells when that is done."""
        return self._versions.look_now()

    async def stop(self, drain_seconds: float) -> bool:
        """Refuses new requests, finishes those there are (or cancels them after the time), closes the ports.

        Returns whether every engine has stopped; where one hangs in a step, the process should end.
        """
        self._open = False
        await self._versions.stop()
        await self._watchdog.stop()
        await self._grpc.drain_health()
        dispatchers = [model.dispatcher for model in self._models.loaded()]
        stopped = await asyncio.gather(*(dispatcher.drain(drain_seconds) for dispatcher in dispatchers))
        await self._grpc.stop(_LAST_MESSAGES_SECONDS)
        await self._http.stop()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close, _LAST_SPANS_SECONDS)
        return all(stopped)

    @property
    def is_loading(self) -> bool:
        """Whether a thread is loading a version: nothing can interrupt it, so the process should not wait."""
        return self._versions.is_loading

    @property
    def _ready(self) -> bool:
        return self._open and not self._watchdog.stalled and bool(self._models.newest())

    async def _say_health(self) -> None:
        await self._grpc.set_serving(self._ready)

    def _openai_api(self, version: str, clock: Callable[[], float], records: CallRecords) -> OpenAiApi:
        limit = self._settings.max_message_bytes
        calls = Calls(self._metrics, clock, records, self._grpc.credentials, max_body_bytes=limit)
        return OpenAiApi(self._models, calls, version)

    def _fail(self) -> None:
        self._open = False
        self.engine_failed.set()


def run(settings: Settings, make_loader: MakeLoader = choose_loader) -> ExitCode:
    """Serves until SIGTERM or SIGINT, or until an engine breaks; returns the process's exit code.

    Exits at once by itself on a second signal, and where a thread cannot be waited for.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings, make_loader))


async def _run(settings: Settings, make_loader: MakeLoader) -> ExitCode:
    begin = time.monotonic()
    stop_asked = _on_stop_signals()
    try:
        server = Server(settings, make_loader)
    except StartupError as error:
        return _not_started(error)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.look_for_models)
    try:
        await server.start()
        loaded = await _unless(stop_asked, server.load())
        if loaded:
            _log.info("ready", seconds=round(time.monotonic() - begin, 3))
            if not settings.load_only:
                await _unless(stop_asked, server.engine_failed.wait())
    except StartupError as error:
        await server.stop(0)
        return _not_started(error)
    failed = server.engine_failed.is_set()
    _log.info("stopping", engine_failed=failed, drain_seconds=settings.drain_seconds)
    stopped = await server.stop(settings.drain_seconds)
    code = ExitCode.DRAINED if stopped and not server.engine_failed.is_set() else ExitCode.ENGINE_FAILED
    _log.info("stopped", exit_code=int(code))
    if server.is_loading or not stopped:
        _exit_now(code)
    return code


def _not_started(error: StartupError) -> ExitCode:
    _log.error("cannot_start", error=str(error))
    return ExitCode.NOT_STARTED


def _exit_now(code: ExitCode) -> NoReturn:
    """Ends the process though a thread still loads a model or hangs in a step: nothing can interrupt it."""
    os._exit(code)


def _on_stop_signals() -> asyncio.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process at once."""
    asked = asyncio.Event()

    def stop() -> None:
        if asked.is_set():
            _log.warning("second_signal", exit_code=int(ExitCode.FORCED))
            _exit_now(ExitCode.FORCED)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return asked


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, object]) -> bool:
    """Does the work, or drops it when the event comes first; returns whether it was done."""
    task, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        await task
        return True
    task.cancel()
    return False
