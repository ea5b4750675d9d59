"""Who takes part, and with which settings: the best that each engine's documentation has for this machine."""

import dataclasses
import enum
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

CORES: Final = len(os.sched_getaffinity(0))


class Division(enum.Enum):
    """Those that are compared with each other; they run in turn, one division after the other."""

    REDUCED = "int8 and bfloat16"
    FLOAT32 = "float32"
    SPECULATING = "with prompt lookup, 1 concurrent"


@dataclasses.dataclass(frozen=True, slots=True)
class Contestant:
    """One engine with one set of settings."""

    name: str
    division: Division
    engine: str
    """What --engines calls it: ours, or a key of ENVIRONMENTS."""
    driver: str
    """Module of tests.bench.rivals.drivers."""
    model: str
    """What models.ensure_model calls it."""
    precision: str
    """Of weights, arithmetic and KV cache, for people."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What only its driver knows."""
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the process; {environment} is replaced by the folder of its environment."""
    long_context: bool = False
    """Whether decode at a long context is measured: the fastest settings of engines that keep prefixes."""
    judged: bool = True
    """Whether its quality is measured: not where another contestant computes the same."""

    @property
    def ours(self) -> bool:
        """Whether it is Cadenza."""
        return self.engine == OURS


OURS: Final = "cadenza"
_OMP: Final = {"OMP_NUM_THREADS": str(CORES)}
_VLLM: Final = {
    # Both as its documentation has it; the loader passes over what the system lacks.
    "LD_PRELOAD": "{environment}/lib/libiomp5.so:libtcmalloc_minimal.so.4",
    "VLLM_CPU_OMP_THREADS_BIND": f"0-{CORES - 1}",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CACHE_ROOT": "{environment}/compiled",
}


def _cadenza() -> Sequence[Contestant]:
    int8, float32 = "int8 weights and activations, KV bf16", "float32"
    engine, server = "cadenza_engine", "cadenza_server"
    return (
        Contestant("Cadenza int8", Division.REDUCED, OURS, engine, "int8", int8, long_context=True),
        Contestant("Cadenza int8, gRPC", Division.REDUCED, OURS, server, "int8", int8, judged=False),
        Contestant("Cadenza float32", Division.FLOAT32, OURS, engine, "float32", float32),
        Contestant("Cadenza float32, gRPC", Division.FLOAT32, OURS, server, "float32", float32, judged=False),
        Contestant("Cadenza int8", Division.SPECULATING, OURS, engine, "int8", int8, judged=False),
        Contestant("Cadenza int8, gRPC", Division.SPECULATING, OURS, server, "int8", int8, judged=False),
    )


def _openvino() -> Sequence[Contestant]:
    def contestant(
        name: str, division: Division, model: str, precision: str, kv: str, **more: Any
    ) -> Contestant:
        weights = "int8" if model.endswith("int8") else precision
        return Contestant(
            f"OpenVINO GenAI {name}", division, "openvino", "openvino", f"openvino-{model}",
            f"{weights} weights, {precision} arithmetic, KV {kv}",
            {"precision": precision, "kv_precision": kv}, **more,
        )  # fmt: skip

    return (
        contestant("int8", Division.REDUCED, "int8", "bf16", "u8", long_context=True),
        contestant("int8 f32", Division.REDUCED, "int8", "f32", "u8"),
        contestant("bf16", Division.REDUCED, "float32", "bf16", "bf16"),
        contestant("float32", Division.FLOAT32, "float32", "f32", "f32"),
        contestant("int8", Division.SPECULATING, "int8", "bf16", "u8", judged=False),
    )


def _vllm() -> Sequence[Contestant]:
    def contestant(division: Division, dtype: str, **more: Any) -> Contestant:
        return Contestant(
            f"vLLM {dtype}", division, "vllm", "vllm", "transformers", dtype, {"dtype": dtype}, _VLLM, **more
        )

    return (
        contestant(Division.REDUCED, "bfloat16", long_context=True),
        contestant(Division.FLOAT32, "float32"),
        contestant(Division.SPECULATING, "bfloat16", judged=False),
    )


def _llama_cpp() -> Sequence[Contestant]:
    def contestant(
        engine: str, division: Division, model: str, driver: str = "llama_cpp", **more: Any
    ) -> Contestant:
        precision = {"q8_0": "Q8_0 weights and activations, KV f16", "bfloat16": "bf16, KV f16"}
        kv = "f32" if division is Division.FLOAT32 else "f16"
        return Contestant(
            f"{engine} {model.upper() if model == 'q8_0' else model}", division, engine, driver,
            f"gguf-{model}", precision.get(model, "float32"), {"kv": kv}, **more,
        )  # fmt: skip

    return (
        contestant("llama.cpp", Division.REDUCED, "q8_0", long_context=True),
        contestant("llama.cpp", Division.REDUCED, "bfloat16"),
        contestant("xllamacpp", Division.REDUCED, "q8_0", "xllamacpp", judged=False),
        contestant("llama.cpp", Division.FLOAT32, "float32"),
        contestant("xllamacpp", Division.FLOAT32, "float32", "xllamacpp", judged=False),
        contestant("xllamacpp", Division.SPECULATING, "q8_0", "xllamacpp", judged=False),
    )


def _others() -> Sequence[Contestant]:
    def ctranslate2(division: Division, kind: str) -> Contestant:
        return Contestant(
            f"CTranslate2 {kind}", division, "ctranslate2", "ctranslate2", f"ctranslate2-{kind}",
            f"{kind}, KV float32", {"compute_type": kind}, _OMP,
        )  # fmt: skip

    def transformers(division: Division, dtype: str) -> Contestant:
        return Contestant(
            f"transformers {dtype}", division, "transformers", "transformers_static", "transformers",
            dtype, {"dtype": dtype}, _OMP,
        )  # fmt: skip

    return (
        ctranslate2(Division.REDUCED, "int8"),
        transformers(Division.REDUCED, "bfloat16"),
        ctranslate2(Division.FLOAT32, "float32"),
        transformers(Division.FLOAT32, "float32"),
    )


CONTESTANTS: Final = (*_cadenza(), *_openvino(), *_vllm(), *_llama_cpp(), *_others())
ENGINES: Final = tuple(dict.fromkeys(contestant.engine for contestant in CONTESTANTS))
