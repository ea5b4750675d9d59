"""The server as a whole: opens its ports, loads its models, serves, drains.

`Server` is for whoever owns a loop (tests, embedders); `run` owns the process and its signals.
"""

import asyncio
import dataclasses
import enum
import gc
import importlib.metadata
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import structlog
from prometheus_client import CollectorRegistry

from cadenza.server.admission import QueueLimits
from cadenza.server.chat import ChatTemplate
from cadenza.server.config import Settings
from cadenza.server.dispatch import Dispatcher
from cadenza.server.engine.options import EngineOptions
from cadenza.server.errors import ArtifactError, StartupError
from cadenza.server.http import HttpServer
from cadenza.server.metrics import Metrics
from cadenza.server.models import MAX_CHOICES, ModelTable, ServedModel
from cadenza.server.repository import Artifact, ModelVersion, find_versions, load_artifact
from cadenza.server.rpc.server import GrpcServer
from cadenza.server.runner.base import Runner, RunnerError
from cadenza.server.tokenizer import Tokenizer
from cadenza.server.watchdog import Watchdog
from cadenza.v1.manifest_pb2 import Precision

_log = structlog.get_logger(__name__)
_LAST_MESSAGES_SECONDS = 5.0
"""How long clients may take to read the ends of their streams once the engines have stopped."""

_SWITCH_SECONDS = 2e-4
"""How long the loop may hold Python's lock while an engine waits for it between two steps."""

LoadRunner = Callable[[Artifact, Settings], Runner]


class ExitCode(enum.IntEnum):
    """How the process ends; `cadenza-server --help` lists them."""

    DRAINED = 0
    NOT_STARTED = 1
    WRONG_FLAGS = 2
    ENGINE_FAILED = 3
    FORCED = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Ports:
    """Where the server listens."""

    grpc: int
    http: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Loaded:
    """What a model needs before it can have an engine."""

    artifact: Artifact
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    runner: Runner


class Server:
    """Serves models on a gRPC and an HTTP port. Start it, load it, and stop it, on one loop."""

    def __init__(
        self, settings: Settings, load_runner: LoadRunner, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`load_runner` is called outside the loop; `clock` gives seconds that never go back."""
        self._settings = settings
        self._load_runner = load_runner
        self._clock = clock
        self._registry = CollectorRegistry()
        self._metrics = Metrics(self._registry, server_version=importlib.metadata.version("cadenza"))
        self._models = ModelTable(settings.version_labels)
        self._open = False
        """Loaded, and neither draining nor broken."""
        self._watchdog = Watchdog(
            lambda: [model.dispatcher for model in self._models.loaded()],
            limit=settings.watchdog_seconds,
            on_change=self._say_health,
        )
        self._grpc = GrpcServer(
            self._models,
            self._metrics,
            clock,
            max_message_bytes=settings.max_message_bytes,
            tensorflow_serving=settings.tensorflow_serving,
        )
        self._http = HttpServer(self._registry, lambda: self._ready)
        self.engine_failed = asyncio.Event()
        """Set when an engine has broken; what is left to do is to stop."""

    async def start(self) -> Ports:
        """Opens the ports; MODEL_LOADING answers calls until `load` has ended. Raises StartupError."""
        self._versions = find_versions(self._settings)
        for version in self._versions:
            self._models.expect(version.name)
        ports = Ports(
            grpc=await self._grpc.start(self._settings.host, self._settings.port),
            http=await self._http.start(self._settings.host, self._settings.http_port),
        )
        _log.info("listening", host=self._settings.host, grpc_port=ports.grpc, http_port=ports.http)
        return ports

    async def load(self) -> None:
        """Loads every model and says SERVING. Raises StartupError."""
        for version in self._versions:
            self._serve(await asyncio.to_thread(self._load, version))
        gc.collect()
        gc.freeze()  # what is loaded stays: the collector need not look at it between steps
        self._open = True
        if self._settings.watchdog_seconds:
            self._watchdog.start()
        await self._say_health()

    async def stop(self, drain_seconds: float) -> bool:
        """Refuses new requests, finishes those there are (or cancels them after the time), closes the ports.

        Returns whether every engine has stopped; where one hangs in a step, the process should end.
        """
        self._open = False
        await self._watchdog.stop()
        await self._say_health()
        dispatchers = [model.dispatcher for model in self._models.loaded()]
        stopped = await asyncio.gather(*(dispatcher.drain(drain_seconds) for dispatcher in dispatchers))
        await self._grpc.stop(_LAST_MESSAGES_SECONDS)
        await self._http.stop()
        return all(stopped)

    @property
    def _ready(self) -> bool:
        return self._open and not self._watchdog.stalled

    async def _say_health(self) -> None:
        await self._grpc.set_serving(self._ready)

    def _load(self, version: ModelVersion) -> _Loaded:
        """Everything that takes time, outside the loop."""
        log = _StepLog(version.name, self._clock)
        artifact = load_artifact(version)
        log.done("artifact_checked", path=str(version.path))
        info = artifact.manifest.tokenizer
        tokenizer = Tokenizer.load(
            artifact.tokenizer_path,
            artifact.manifest.decoder.vocabulary_size,
            info.bos_token_id if info.HasField("bos_token_id") else None,
        )
        template = _chat_template(artifact, tokenizer)
        log.done("tokenizer_loaded")
        runner = self._load_runner(artifact, self._settings)
        log.done("runner_loaded", **dataclasses.asdict(runner.limits))
        return _Loaded(artifact, tokenizer, template, runner)

    def _serve(self, loaded: _Loaded) -> None:
        settings, artifact = self._settings, loaded.artifact
        precision = Precision.Name(artifact.manifest.cpu.precision).removeprefix("PRECISION_").lower()
        info = {"version": str(artifact.version), "family": artifact.manifest.family, "precision": precision}
        dispatcher = Dispatcher(
            [loaded.runner],
            loaded.tokenizer.token_bytes,
            name=artifact.name,
            limits=QueueLimits(
                settings.max_queue_requests, settings.max_queue_prompt_tokens, settings.max_queue_bytes
            ),
            options=EngineOptions(
                mixed_prefill_tokens=settings.mixed_prefill_tokens,
                overdue_seconds=settings.overdue_seconds,
                prefix_cache=settings.prefix_cache,
                client_weights=settings.client_weights,
            ),
            metrics=self._metrics.for_model(artifact.name, info),
            clock=self._clock,
            on_failure=self._fail,
        )
        dispatcher.start()
        self._models.serve(
            ServedModel(
                artifact=artifact,
                tokenizer=loaded.tokenizer,
                chat_template=loaded.chat_template,
                max_context=loaded.runner.limits.max_context,
                max_choices=min(MAX_CHOICES, loaded.runner.limits.max_sequences),
                dispatcher=dispatcher,
            )
        )

    def _fail(self) -> None:
        self._open = False
        self.engine_failed.set()


class _StepLog:
    """Logs what each step of a load took."""

    def __init__(self, model: str, clock: Callable[[], float]) -> None:
        self._model = model
        self._clock = clock
        self._begin = clock()

    def done(self, event: str, **fields: object) -> None:
        now = self._clock()
        _log.info(event, model=self._model, seconds=round(now - self._begin, 3), **fields)
        self._begin = now


def load_litert_runner(artifact: Artifact, settings: Settings) -> Runner:
    """The CPU runner of an artifact, warm. Raises StartupError."""
    from cadenza.server.runner.litert import LiteRTError, LiteRTOptions, LiteRTRunner

    options = LiteRTOptions(
        cache_dir=settings.cache_dir,
        lanes=settings.lanes,
        kv_cache_bytes=int(settings.kv_cache_gib * 2**30),
        max_step_tokens=settings.max_step_tokens,
        max_sequences=settings.max_sequences,
    )
    try:
        runner = LiteRTRunner.load(artifact.cpu_dir, artifact.manifest, options)
        runner.warm_up()
    except (LiteRTError, RunnerError, OSError, ValueError) as error:
        raise StartupError(f"model {artifact.name} in {artifact.cpu_dir} does not load: {error}") from error
    return runner


def run(settings: Settings, load_runner: LoadRunner = load_litert_runner) -> ExitCode:
    """Serves until SIGTERM or SIGINT, or until an engine breaks; returns the process's exit code.

    Exits at once by itself on a second signal, and where a thread cannot be waited for.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    return asyncio.run(_run(settings, load_runner))


async def _run(settings: Settings, load_runner: LoadRunner) -> ExitCode:
    begin = time.monotonic()
    stop_asked = _on_stop_signals()
    server = Server(settings, load_runner)
    try:
        await server.start()
        loaded = await _unless(stop_asked, server.load())
        if loaded:
            _log.info("ready", seconds=round(time.monotonic() - begin, 3))
            await _unless(stop_asked, server.engine_failed.wait())
    except StartupError as error:
        _log.error("cannot_start", error=str(error))
        await server.stop(0)
        return ExitCode.NOT_STARTED
    failed = server.engine_failed.is_set()
    _log.info("stopping", engine_failed=failed, drain_seconds=settings.drain_seconds)
    stopped = await server.stop(settings.drain_seconds)
    code = ExitCode.DRAINED if stopped and not server.engine_failed.is_set() else ExitCode.ENGINE_FAILED
    _log.info("stopped", exit_code=int(code))
    if not (loaded and stopped):
        _exit_now(code)
    return code


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


def _chat_template(artifact: Artifact, tokenizer: Tokenizer) -> ChatTemplate | None:
    if artifact.chat_template is None:
        return None
    info = artifact.manifest.tokenizer
    tokens = {}
    if info.eos_token_ids:
        tokens["eos_token"] = tokenizer.token(info.eos_token_ids[0])
    if info.HasField("bos_token_id"):
        tokens["bos_token"] = tokenizer.token(info.bos_token_id)
    try:
        return ChatTemplate(artifact.chat_template, {name: token or "" for name, token in tokens.items()})
    except ArtifactError as error:
        raise ArtifactError(f"{artifact.path}: {error}") from error
