"""From a version on disk to a model that takes requests."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import structlog

from cadenza.server.admission import QueueLimits
from cadenza.server.chat import ChatTemplate
from cadenza.server.config import Settings
from cadenza.server.dispatch import Dispatcher
from cadenza.server.engine.options import EngineOptions
from cadenza.server.errors import ArtifactError, MemoryShortError
from cadenza.server.metrics import Metrics, ModelMetrics
from cadenza.server.models import MAX_CHOICES, ServedModel
from cadenza.server.repository import Artifact, ModelVersion, load_artifact
from cadenza.server.runner.base import Runner
from cadenza.server.runner.loading import RunnerLoader
from cadenza.server.tokenizer import Tokenizer

_log = structlog.get_logger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedModel:
    """What a version needs before it can have engines."""

    artifact: Artifact
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    runners: Sequence[Runner]
    memory_bytes: int
    """As it was counted before it was loaded: RunnerLoader.required_bytes."""

    def close(self) -> None:
        """Gives back what the runners hold, where no engine has taken them."""
        for runner in self.runners:
            runner.close()


class ModelFactory:
    """Loads versions outside the loop, and gives them engines on it."""

    def __init__(
        self,
        settings: Settings,
        make_loader: Callable[[], RunnerLoader],
        metrics: Metrics,
        clock: Callable[[], float],
        on_failure: Callable[[], None],
    ) -> None:
        """`make_loader` is called once, outside the loop; `on_failure` on the loop, when an engine breaks."""
        self._settings = settings
        self._make_loader = make_loader
        self._metrics = metrics
        self._clock = clock
        self._on_failure = on_failure

    def load(self, version: ModelVersion) -> LoadedModel:
        """Everything that takes time, outside the loop. Raises StartupError."""
        log = _StepLog(version, self._clock)
        artifact = load_artifact(version)
        log.done("artifact_checked", path=str(version.path))
        tokenizer = _tokenizer(artifact)
        template = _chat_template(artifact, tokenizer)
        log.done("tokenizer_loaded")
        required, free = self._loader.required_bytes(artifact), self._loader.free_bytes()
        if required > free:
            raise MemoryShortError(f"version {version.version} of model {version.name}", required, free)
        runners = self._loader.load(artifact)
        log.done("runner_loaded", devices=len(runners), **dataclasses.asdict(runners[0].limits))
        return LoadedModel(artifact, tokenizer, template, runners, required)

    def serve(self, loaded: LoadedModel) -> ServedModel:
        """Starts the engines, on the loop."""
        settings, artifact, limits = self._settings, loaded.artifact, loaded.runners[0].limits
        dispatcher = Dispatcher(
            loaded.runners,
            loaded.tokenizer.token_bytes,
            name=artifact.name,
            limits=QueueLimits(
                settings.max_queue_requests, settings.max_queue_prompt_tokens, settings.max_queue_bytes
            ),
            options=EngineOptions(
                mixed_prefill_tokens=settings.mixed_prefill_tokens,
                short_prompt_tokens=settings.short_prompt_tokens,
                overdue_seconds=settings.overdue_seconds,
                prefix_cache=settings.prefix_cache,
                speculation_tokens=settings.speculation_tokens,
                client_weights=settings.client_weights,
            ),
            metrics=ModelMetrics(self._metrics, artifact.name),
            clock=self._clock,
            on_failure=self._on_failure,
            message_spacing=settings.message_spacing_ms / 1e3,
        )
        dispatcher.start()
        return ServedModel(
            artifact=artifact,
            tokenizer=loaded.tokenizer,
            chat_template=loaded.chat_template,
            max_context=limits.max_context,
            max_choices=min(MAX_CHOICES, limits.max_sequences),
            precision=self._loader.precision(artifact),
            memory_bytes=loaded.memory_bytes,
            dispatcher=dispatcher,
        )

    @functools.cached_property
    def _loader(self) -> RunnerLoader:
        return self._make_loader()


class _StepLog:
    """Logs what each step of a load took."""

    def __init__(self, version: ModelVersion, clock: Callable[[], float]) -> None:
        self._version = version
        self._clock = clock
        self._begin = clock()

    def done(self, event: str, **fields: object) -> None:
        now, version = self._clock(), self._version
        seconds = round(now - self._begin, 3)
        _log.info(event, model=version.name, version=version.version, seconds=seconds, **fields)
        self._begin = now


def _tokenizer(artifact: Artifact) -> Tokenizer:
    info = artifact.manifest.tokenizer
    bos = info.bos_token_id if info.HasField("bos_token_id") else None
    return Tokenizer.load(artifact.tokenizer_path, artifact.manifest.decoder.vocabulary_size, bos)


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
