"""`cadenza-export verify`: proves an artifact on this machine, with what it carries itself.

Files, signatures, operations, the tokenizer in the graph against tokenizer.json, and the golden vectors on
TensorFlow and on the CPU program. Each check is one line of a table.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from cadenza.export import artifact
from cadenza.v1.golden_pb2 import CompletionVector, GoldenVectors
from cadenza.v1.manifest_pb2 import PRECISION_INT8, ModelManifest

FLOAT_TOLERANCE = 1e-4
"""Relative difference of float logits that another processor's order of additions may make."""
INT8_TOLERANCE = 0.05
"""The same of an int8 program, whose activations may round another way."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    passed: bool
    seen: str


class _CheckError(Exception):
    """A check does not hold; the message says what was seen."""


def verify(path: Path, console: Console) -> bool:
    """Checks the artifact in the version folder `path` and prints a table; says whether all holds.

    Raises:
        ArtifactError: there is no artifact, or one that this release does not know.
    """
    manifest = artifact.read_manifest(path)
    table = Table(title=f"{path}: {manifest.family}, contract version {manifest.contract_version}")
    for column in ("check", "result", "seen"):
        table.add_column(column, overflow="fold")
    passed = True
    for check in checks(path, manifest):
        table.add_row(check.name, "[green]ok[/]" if check.passed else "[red]FAILED[/]", check.seen)
        passed = passed and check.passed
    console.print(table)
    return passed


def checks(path: Path, manifest: ModelManifest) -> Iterator[Check]:
    """All checks in turn; after wrong checksums none, as nothing else is then worth loading."""
    sums = _run("checksums", lambda: _checksums(path))
    yield sums
    if not sums.passed:
        return
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    golden = json_format.Parse((path / artifact.EXTRA / "golden.json").read_text("utf-8"), GoldenVectors())
    tokenizer = Tokenizer.from_file(str(path / artifact.EXTRA / "tokenizer.json"))
    signatures = loaded.signatures
    yield _run("signatures", lambda: _signatures(signatures))
    yield _run("operations", lambda: _operations(path))
    yield _run("tokenizer.json", lambda: _reference_tokenizer(tokenizer, manifest, golden))
    yield _run("tokenize", lambda: _tokenize(signatures, golden))
    yield _run("detokenize", lambda: _round_trips(signatures, golden))
    yield _run("complete", lambda: _complete(signatures, golden))
    yield _run("logits on TensorFlow", lambda: _saved_model_logits(signatures, golden))
    yield _run("logits on the CPU program", lambda: _cpu_logits(path, manifest, golden))
    yield _run("warm-up requests", lambda: _warmup(path, signatures))


def _run(name: str, check: Callable[[], str]) -> Check:
    """The check's line: what it returns, or what it raises."""
    try:
        return Check(name, True, check())
    except _CheckError as failure:
        return Check(name, False, str(failure))
    except Exception as error:  # noqa: BLE001  whatever a damaged model raises is what the line has to say
        return Check(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _expect(condition: bool, seen: str) -> None:
    if not condition:
        raise _CheckError(seen)


def _checksums(path: Path) -> str:
    wrong = artifact.checksum_errors(path)
    _expect(not wrong, "; ".join(wrong))
    return "every file is whole, none is too many"


def _signatures(loaded: Mapping[str, Any]) -> str:
    from cadenza.export.signatures import SIGNATURES

    for name, expected in SIGNATURES.items():
        _expect(name in loaded, f"{name} is missing")
        _, inputs = loaded[name].structured_input_signature
        outputs = loaded[name].structured_outputs
        for what, wanted, found in (
            ("inputs", expected.inputs, inputs),
            ("outputs", expected.outputs, outputs),
        ):
            shown = {key: (spec.dtype, spec.shape.rank) for key, spec in found.items()}
            _expect(shown == dict(wanted), f"{name} has the {what} {shown}; expected {dict(wanted)}")
    return ", ".join(SIGNATURES)


def _operations(path: Path) -> str:
    names = operations(path)
    foreign = sorted(names - registered_operations(names))
    _expect(not foreign, f"not TensorFlow's own: {', '.join(foreign)}")
    python = sorted(name for name in names if "PyFunc" in name)
    _expect(not python, f"Python in the graph: {', '.join(python)}")
    return f"{len(names)} kinds, all of TensorFlow's registry"


def operations(path: Path) -> frozenset[str]:
    """The kinds of operations in an artifact's graph and its functions."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    graphs = [meta.graph_def for meta in model.meta_graphs]
    nodes = [node.op for graph in graphs for node in graph.node]
    functions = [function for graph in graphs for function in graph.library.function]
    inner = [node.op for function in functions for node in function.node_def]
    return frozenset(nodes + inner) - {function.signature.name for function in functions}


def registered_operations(names: frozenset[str]) -> frozenset[str]:
    """Those of the names that this TensorFlow registers itself."""
    from tensorflow.python.framework import op_def_registry

    return frozenset(name for name in names if op_def_registry.get(name) is not None)


def _reference_tokenizer(tokenizer: Tokenizer, manifest: ModelManifest, golden: GoldenVectors) -> str:
    first = [manifest.tokenizer.bos_token_id] if manifest.tokenizer.add_bos_token else []
    for vector in golden.tokenizer:
        found = [*first, *tokenizer.encode(vector.text, add_special_tokens=False).ids]
        _expect(found == list(vector.token_ids), f"{vector.text!r} gives {found}")
    return f"{len(golden.tokenizer)} texts give the recorded tokens"


def _tokenize(signatures: Mapping[str, Any], golden: GoldenVectors) -> str:
    import tensorflow as tf

    texts = [vector.text for vector in golden.tokenizer]
    found = signatures["tokenize"](text=tf.constant(texts))
    rows = zip(found["token_ids"].numpy(), found["length"].numpy(), strict=True)
    for vector, (row, length) in zip(golden.tokenizer, rows, strict=True):
        ids = row[:length].tolist()
        _expect(ids == list(vector.token_ids), f"{vector.text!r} gives {ids}")
    return f"{len(texts)} texts in one batch give the recorded tokens"


def _round_trips(signatures: Mapping[str, Any], golden: GoldenVectors) -> str:
    import tensorflow as tf

    texts = tf.constant([vector.text for vector in golden.tokenizer])
    found = signatures["tokenize"](text=texts)
    back = signatures["detokenize"](token_ids=found["token_ids"], length=found["length"])["text"]
    for vector, text in zip(golden.tokenizer, back.numpy(), strict=True):
        _expect(text.decode().endswith(vector.text), f"{vector.text!r} comes back as {text.decode()!r}")
    return f"{len(golden.tokenizer)} texts come back as they were"


def _complete(signatures: Mapping[str, Any], golden: GoldenVectors) -> str:
    import tensorflow as tf

    vectors = golden.completions
    if not vectors:
        return "the context is too short for a recorded completion"
    size = len(vectors)
    found = signatures["complete"](
        prompt=tf.constant([vector.prompt for vector in vectors]),
        max_tokens=tf.constant([len(vector.token_ids) for vector in vectors], tf.int32),
        temperature=tf.zeros([size]),
        top_k=tf.zeros([size], tf.int32),
        top_p=tf.ones([size]),
        seed=tf.zeros([size], tf.int64),
    )
    for index, vector in enumerate(vectors):
        ids = found["token_ids"].numpy()[index, : found["token_count"].numpy()[index]].tolist()
        _expect(ids == list(vector.token_ids), f"{vector.prompt!r} is continued with {ids}")
    tokens = sum(len(vector.token_ids) for vector in vectors)
    return f"{size} greedy completions, {tokens} tokens, as recorded"


def _saved_model_logits(signatures: Mapping[str, Any], golden: GoldenVectors) -> str:
    import tensorflow as tf

    def logits(ids: Sequence[int]) -> Any:
        return signatures["logits"](token_ids=tf.constant([ids], tf.int32))["logits"][0].numpy()

    found = [logits(_sequence(vector)) for vector in golden.completions]
    return _compare(found, [vector.saved_model for vector in golden.completions], FLOAT_TOLERANCE)


def _cpu_logits(path: Path, manifest: ModelManifest, golden: GoldenVectors) -> str:
    from cadenza.export.cpu_reference import cpu_logits

    sequences = [_sequence(vector) for vector in golden.completions]
    if not sequences:
        return "the context is too short for recorded logits"
    found = cpu_logits(path / artifact.EXTRA / "cpu", manifest.decoder, manifest.cpu, sequences)
    tolerance = INT8_TOLERANCE if manifest.cpu.precision == PRECISION_INT8 else FLOAT_TOLERANCE
    seen = _compare(found, [vector.cpu for vector in golden.completions], tolerance)
    expected = [token_id for vector in golden.completions for token_id in vector.saved_model.best_token_ids]
    same = np.mean(np.concatenate([rows.argmax(axis=-1) for rows in found]) == np.array(expected))
    return f"{seen}; {same:.0%} of the most probable tokens are TensorFlow's"


def _compare(found: Sequence[Any], expected: Sequence[Any], tolerance: float) -> str:
    from cadenza.export.golden import difference, digest

    if not found:
        return "the context is too short for recorded logits"
    largest = max(difference(digest(rows), wanted) for rows, wanted in zip(found, expected, strict=True))
    seen = f"largest relative difference {largest:.1e}, allowed {tolerance:.0e}"
    _expect(largest <= tolerance, seen)
    return seen


def _sequence(vector: CompletionVector) -> list[int]:
    return [*vector.prompt_token_ids, *vector.token_ids]


def _warmup(path: Path, signatures: Mapping[str, Any]) -> str:
    import tensorflow as tf

    from cadenza.export.warmup import read_warmup_requests

    try:
        requests = read_warmup_requests(path / artifact.EXTRA)
    except (DecodeError, tf.errors.OpError) as error:
        raise _CheckError(f"no TFRecord of PredictionLog: {error}") from error
    for signature, inputs in requests:
        signatures[signature](**inputs)
    return f"{len(requests)} requests answered: {', '.join(signature for signature, _ in requests)}"
