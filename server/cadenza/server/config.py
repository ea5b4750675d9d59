"""The server's settings: command-line flags over CADENZA_SERVER_* environment variables over defaults.

`Settings.from_command_line` is what `cadenza-server` reads; tests and embedders build `Settings` directly.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cadenza.server.flags import make_parser, problem

_ENV_PREFIX = "CADENZA_SERVER_"
_WEIGHTS = (0.001, 1000.0)
_EPILOG = f"""Every flag can be set by an environment variable: --http-port by {_ENV_PREFIX}HTTP_PORT.
Exit codes: 0 drained after SIGTERM or SIGINT; 1 could not start; 2 wrong flags; 3 the engine failed;
4 ended at once by a second signal."""


def default_cache_dir() -> Path:
    """Where packed weights and compiled kernels are kept: $XDG_CACHE_HOME/cadenza or ~/.cache/cadenza."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cadenza"


class Settings(BaseSettings):
    """All that can be set. Either `models` or at least one `model` is needed."""

    model_config = SettingsConfigDict(env_prefix=_ENV_PREFIX, frozen=True, extra="forbid")

    models: Path | None = Field(
        None, description="folder of models, NAME/VERSION each; of every NAME the highest version is served"
    )
    model: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="NAME=PATH of one version's folder; may be repeated (environment: comma-separated)"
    )
    models_poll_seconds: float = Field(
        5.0,
        ge=0,
        le=86400,
        description="how often --models is looked at for new and removed versions; 0 is only at SIGHUP",
    )
    pin: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="MODEL=VERSION[,VERSION...] to serve of --models instead of the newest; may be repeated",
    )
    version_label: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="MODEL:LABEL=VERSION: requests may name the version MODEL@LABEL; may be repeated "
        "(environment: comma-separated)",
    )
    host: str = Field("::", description="address to listen on; :: is every address, IPv4 and IPv6")
    port: int = Field(8500, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    http_port: int = Field(
        8501, ge=0, le=65535, description="port of OpenAI's API, /metrics, /healthz, /readyz; 0 picks one"
    )
    health_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="another gRPC port that serves grpc.health.v1 alone, without TLS and tokens, for probes; "
        "0 picks a free one; none where absent",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file, the server's certificate and those between it and its authority"
    )
    tls_key: Path | None = Field(None, description="PEM file, the certificate's private key")
    tls_client_ca: Path | None = Field(
        None, description="PEM file, the authorities of clients' certificates; every client must show one"
    )
    token_file: Path | None = Field(
        None, description="file of bearer tokens, NAME TOKEN a line; every call but health must show one"
    )
    credentials_poll_seconds: float = Field(
        2.0,
        ge=0.01,
        le=3600,
        description="how often the files of certificates and tokens are looked at; what is the same at two "
        "looks is read",
    )
    tensorflow_serving: Literal["auto", "on", "off"] = Field(
        "auto",
        description="answer TensorFlow Serving's API on the gRPC port: on, off, or auto: where "
        "tensorflow-serving-api is installed",
    )
    openai: Literal["auto", "on", "off"] = Field(
        "auto",
        description="answer OpenAI's API on the HTTP port, which has no TLS: on, off, or auto: where "
        "there is no --tls-certificate",
    )
    allowed_origin: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="URL of pages whose scripts may call the HTTP port from browsers, or *; may be repeated "
        "(environment: comma-separated)",
    )
    device: Literal["auto", "cpu", "gpu", "tpu"] = Field(
        "auto", description="auto (the best that is there), cpu, gpu or tpu"
    )
    runner: Literal["auto", "native", "litert", "tensorflow"] = Field(
        "auto",
        description="auto (on a CPU native where its instructions are there, else litert; else tensorflow), "
        "native, litert or tensorflow",
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="of the weights on a device of TensorFlow: auto (bfloat16 on GPU and TPU, float32 on the "
        "CPU), float32, bfloat16 or int8",
    )
    device_memory_fraction: float = Field(
        0.9, gt=0, le=1, description="share of a GPU's or TPU's free memory that a version may take"
    )
    kv_cache_gib: float = Field(
        0.0,
        ge=0,
        le=4096,
        description="memory for the KV cache of each model, GiB; 0 on a CPU is enough for --max-sequences of "
        "1,024 tokens each and for one whole context, but at most a quarter of the machine's memory, and on "
        "GPU and TPU what --device-memory-fraction leaves beside the weights",
    )
    kv_cache_precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of keys and values in the cache of a CPU: auto (bfloat16 beside int8 weights, else "
        "float32), float32 or bfloat16; devices of TensorFlow keep them as --precision says",
    )
    max_sequences: int = Field(64, ge=1, le=4096, description="most requests that run at once, per model")
    max_step_tokens: int = Field(128, ge=2, le=65536, description="most tokens in one engine step")
    max_queue_requests: int = Field(
        256, ge=1, description="most requests that wait, per model; more are refused"
    )
    max_queue_prompt_tokens: int = Field(131072, ge=1, description="most prompt tokens that wait, per model")
    max_queue_bytes: int = Field(
        64 << 20, ge=1, description="most bytes of request messages that wait, per model"
    )
    mixed_prefill_tokens: int = Field(
        12,
        ge=1,
        le=65536,
        description="most tokens of long prompts in a step in which few streams generate: bounds how long "
        "they pause",
    )
    short_prompt_tokens: int = Field(
        512,
        ge=0,
        le=65536,
        description="a prompt of which no more has to be computed is short: it takes whatever "
        "--max-step-tokens leaves, even while streams generate",
    )
    message_spacing_ms: float = Field(
        10.0,
        ge=0,
        le=10000,
        description="least time between two messages of a stream, for up to 4 streams; beyond that it grows "
        "with their number. Tokens of the steps between go into one message; 0 is a message a step",
    )
    overdue_seconds: float = Field(
        30.0, gt=0, le=86400, description="a request that has waited so long goes before all others"
    )
    prefix_cache: bool = Field(True, description="reuse KV blocks of prompts that begin alike")
    speculation_tokens: int = Field(
        8,
        ge=0,
        le=64,
        description="most next tokens that a step guesses of a sequence, from its own text, and checks; they "
        "change no answer, only its speed; 0 is none",
    )
    client_weight: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="NAME=W: client NAME's share of the engine's work, where others have 1; "
        "may be repeated (environment: comma-separated)",
    )
    watchdog_seconds: float = Field(
        60.0, ge=0, le=86400, description="a step that runs longer turns health NOT_SERVING; 0 is never"
    )
    max_message_bytes: int = Field(4 << 20, ge=1024, le=1 << 30, description="largest gRPC request, bytes")
    max_metadata_bytes: int = Field(
        16384, ge=4096, le=1 << 20, description="most metadata of a call, bytes; more is refused"
    )
    max_connection_streams: int = Field(
        1024, ge=1, le=1 << 20, description="most calls at once on one connection; more wait in the client"
    )
    max_connection_seconds: float = Field(
        3600.0,
        ge=0,
        le=86400 * 20,
        description="a connection so old takes no new call: the client opens another; 0 is never",
    )
    max_connection_grace_seconds: float = Field(
        0.0,
        ge=0,
        le=86400 * 20,
        description="how long the calls of such a connection may go on; 0 is to their end",
    )
    keepalive_seconds: float = Field(
        60.0,
        ge=0,
        le=86400,
        description="a client silent so long is pinged, and again until it counts as gone; 0 is never",
    )
    min_ping_seconds: float = Field(
        10.0, ge=0, le=86400, description="clients that ping more often are disconnected"
    )
    drain_seconds: float = Field(30.0, ge=0, le=86400, description="time to finish requests after SIGTERM")
    lanes: int = Field(
        0,
        ge=0,
        le=256,
        description="threads that share a CPU step; 0 is one for each physical core of one NUMA node, within "
        "the CPU quota, less one where there are 8 or more, and at most as many as have work in a step",
    )
    cache_dir: Path = Field(
        default_factory=default_cache_dir, description="packed weights and compiled kernels"
    )
    load_only: bool = Field(
        False,
        description="load the models, which fills --cache-dir, and exit; for images and init containers",
    )
    slow_request_seconds: float = Field(
        30.0, ge=0, le=86400, description="a request that takes longer leaves a line that says why; 0 is none"
    )
    otlp_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^/\s]+$",
        description="http:// or https://HOST:PORT of an OpenTelemetry collector (OTLP over gRPC) that gets a "
        "span of every call; OTEL_* variables say the rest; no spans where absent",
    )
    log_format: Literal["json", "human"] = Field(
        default_factory=lambda: "human" if sys.stderr.isatty() else "json",
        description="json, or human (the default on a terminal)",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level to log")

    @field_validator("model", "client_weight", "pin", "version_label", "allowed_origin", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part for part in value.split(",") if part) if isinstance(value, str) else value

    @field_validator("client_weight")
    @classmethod
    def _check_weights(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            _parse_weight(text)
        return value

    @field_validator("pin")
    @classmethod
    def _check_pins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        _parse_pins(value)
        return value

    @field_validator("version_label")
    @classmethod
    def _check_labels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            _parse_label(text)
        return value

    @field_validator("host")
    @classmethod
    def _strip_brackets(cls, value: str) -> str:
        return value.removeprefix("[").removesuffix("]")

    @model_validator(mode="after")
    def _some_model(self) -> Self:
        if (self.models is None) == (not self.model):
            raise ValueError("give either --models DIR or --model NAME=PATH (repeatable), not both")
        return self

    @model_validator(mode="after")
    def _pins_of_a_folder(self) -> Self:
        if self.pin and self.models is None:
            raise ValueError("--pin chooses among the versions of --models; --model names one by its path")
        return self

    @model_validator(mode="after")
    def _whole_certificate(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("--tls-certificate and --tls-key go together: give both or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("--tls-client-ca needs --tls-certificate and --tls-key")
        return self

    @model_validator(mode="after")
    def _room_for_prompts(self) -> Self:
        if self.max_step_tokens <= self.max_sequences:
            raise ValueError(
                f"--max-step-tokens {self.max_step_tokens}, --max-sequences {self.max_sequences}: a step "
                "must hold more tokens than sequences: prompts go on while all of them generate"
            )
        return self

    @property
    def serves_openai(self) -> bool:
        """Whether OpenAI's API is answered."""
        if self.openai == "auto":
            return self.tls_certificate is None
        return self.openai == "on"

    @property
    def client_weights(self) -> dict[str, float]:
        """The weights by client."""
        return dict(map(_parse_weight, self.client_weight))

    @property
    def pins(self) -> dict[str, tuple[int, ...]]:
        """The pinned versions by model."""
        return _parse_pins(self.pin)

    @property
    def version_labels(self) -> dict[tuple[str, str], int]:
        """Versions by model and label."""
        return dict(map(_parse_label, self.version_label))

    @classmethod
    def from_command_line(cls, arguments: Sequence[str]) -> Self:
        """Reads flags and environment; raises SystemExit(2) after saying what is wrong."""
        parser = make_parser(
            cls.model_fields,
            prog="cadenza-server",
            description="Serves exported models: completions by gRPC and HTTP, metrics and probes by HTTP.",
            epilog=_EPILOG,
        )
        try:
            return cls(**vars(parser.parse_args(arguments)))
        except ValidationError as error:
            parser.error("; ".join(map(problem, error.errors())))


def _parse_weight(text: str) -> tuple[str, float]:
    """Raises ValueError."""
    name, _, weight = text.rpartition("=")
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    least, most = _WEIGHTS
    if not (name and least <= value <= most):
        raise ValueError(f"{text!r} is not NAME=W with W from {least:g} to {most:g}, such as batch-jobs=0.5")
    return name, value


def _parse_pins(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Raises ValueError. A number without a model goes with the model before it."""
    pins: dict[str, tuple[int, ...]] = {}
    model = ""
    for part in ",".join(texts).split(",") if texts else ():
        name, equals, version = part.rpartition("=")
        model = name if equals else model
        if not (model and version.isascii() and version.isdecimal()):
            raise ValueError(f"{part!r} is not MODEL=VERSION[,VERSION...], such as smollm=3 or smollm=3,4")
        pins[model] = (*pins.get(model, ()), int(version))
    return pins


def _parse_label(text: str) -> tuple[tuple[str, str], int]:
    """Raises ValueError."""
    match = re.fullmatch(r"([^:=,]+):([A-Za-z][A-Za-z0-9._-]{0,63})=([0-9]{1,18})", text)
    if match is None:
        raise ValueError(
            f"{text!r} is not MODEL:LABEL=VERSION, such as smollm:stable=3; a LABEL begins with a letter"
        )
    return (match[1], match[2]), int(match[3])
