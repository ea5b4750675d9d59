"""A small, whole artifact whose tokenizer gives every byte its own value as token id."""

import hashlib
import json
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('no system messages here') }}{% endif %}"
    "<|start|>{{ message.role }}:{{ message.content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}|a{% endif %}"
)
START, END, ADDED = 256, 257, 258
VOCABULARY_SIZE = 260
DEFAULT_MAX_TOKENS = 5

MANIFEST = {
    "contract_version": 3,
    "producer": "tests",
    "family": "llama",
    "parameter_count": "1000",
    "decoder": {"vocabulary_size": VOCABULARY_SIZE, "max_context": 128},
    "tokenizer": {"bos_token_id": START, "eos_token_ids": [END]},
    "default_max_tokens": DEFAULT_MAX_TOKENS,
    "cpu": {
        "precision": "PRECISION_INT8",
        "segments": ["s.tflite"],
        "head": "h.tflite",
        "embedding": "e.npy",
    },
}


def byte_characters() -> list[str]:
    """The character that byte-level BPE writes for each byte value."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(moved)) for byte in range(256)]


def tokenizer_json() -> dict[str, object]:
    """Byte-level BPE without merges: 256 bytes, <|start|>, <|end|> (special) and one plain added token."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [("<|start|>", START, True), ("<|end|>", END, True), ("<tool>", ADDED, False)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": text, "special": sp, **flags} for text, i, sp in added],
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {character: byte for byte, character in enumerate(byte_characters())},
            "merges": [],
        },
    }


def write_artifact(root: Path, manifest: dict[str, object] | None = None, *, chat: bool = True) -> Path:
    """Writes the artifact under `root` (NAME/VERSION) and returns `root`."""
    extra = root / "assets.extra"
    (extra / "cpu").mkdir(parents=True)
    (extra / "manifest.json").write_text(json.dumps(manifest or MANIFEST))
    (extra / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    if chat:
        (extra / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    for name in ("s.tflite", "h.tflite", "e.npy"):
        (extra / "cpu" / name).write_bytes(name.encode() * 100)
    (root / "saved_model.pb").write_bytes(b"graph")
    write_sums(root)
    return root


def write_sums(root: Path) -> None:
    """Lists every file of the artifact with its sha256."""
    sums = root / "assets.extra" / "SHA256SUMS"
    files = sorted(path for path in root.rglob("*") if path.is_file() and path != sums)
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(root).as_posix()}\n" for p in files
    ]
    sums.write_text("".join(lines))
