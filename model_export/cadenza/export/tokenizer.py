"""A source's tokenizer: tokenizer.json (copied, or built from GGUF metadata), end tokens, chat template.

Only byte-level BPE is carried over: that is what the served text pipeline reproduces exactly.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, normalizers
from tokenizers import decoders as decoder_kinds
from tokenizers import models as model_kinds
from tokenizers import pre_tokenizers as splitters
from tokenizers import processors as processor_kinds

from cadenza.export.errors import TokenizerError
from cadenza.export.settings import Settings
from cadenza.export.sources.gguf import GgufFile
from cadenza.export.sources.hugging_face import HuggingFaceFolder
from cadenza.export.text.compile import CompiledTokenizer, compile_tokenizer

_END_OF_TURN = ("<|im_end|>", "<|eot_id|>")
_MAX_TOKEN_ID = 2**24
_PREFIX = "tokenizer.ggml."
_LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_QWEN2 = "qwen2"
_QWEN2_WORDS = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 1, 2, 3, 4, 5


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """What the artifact keeps of a tokenizer."""

    tokenizer_json: str
    compiled: CompiledTokenizer
    """tokenizer.json as rules and tables, for the tokenizer in the graph."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos_token: bool
    chat_template: str | None


def read_tokenizer(source: GgufFile | HuggingFaceFolder, vocabulary_size: int) -> TokenizerFiles:
    """Reads or builds the tokenizer.

    Raises:
        TokenizerError: it is no byte-level BPE, or does not fit the decoder's vocabulary.
    """
    files = _from_gguf(source) if isinstance(source, GgufFile) else _from_hugging_face(source)
    tokenizer = _parse(files.tokenizer_json)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    special = [*files.eos_token_ids, *([] if files.bos_token_id is None else [files.bos_token_id])]
    for token_id in (largest, *special):
        if not 0 <= token_id < vocabulary_size:
            raise TokenizerError(
                f"the tokenizer uses token id {token_id}; the decoder's vocabulary has {vocabulary_size}"
            )
    if not files.eos_token_ids:
        raise TokenizerError("the source names no end-of-sequence token; set eos_token_id in it")
    return files


def _from_hugging_face(source: HuggingFaceFolder) -> TokenizerFiles:
    text = source.text("tokenizer.json")
    if text is None:
        raise TokenizerError(f"{source.name} has no tokenizer.json; save it with a fast tokenizer")
    tokenizer = _parse(text)
    compiled = compile_tokenizer(text)
    config = source.json("tokenizer_config.json", required=False)
    template = source.text("chat_template.jinja") or _default_template(config.get("chat_template"))
    generation = source.json("generation_config.json", required=False)
    bos = _single_id(tokenizer, config.get("bos_token"), source.settings.get("bos_token_id"))
    ends = (source.settings.get("eos_token_id"), generation.get("eos_token_id"))
    eos = {token_id for end in ends for token_id in _ids(end)}
    named = _named_id(tokenizer, config.get("eos_token"))
    eos |= set() if named is None else {named}
    added = tokenizer.encode("", add_special_tokens=True).ids
    if len(added) > 1 or (added and bos is not None and added[0] != bos):
        raise TokenizerError(
            f"tokenizer.json adds the tokens {added} to every text; only the bos token {bos} is supported"
        )
    return TokenizerFiles(
        tokenizer_json=text,
        compiled=compiled,
        bos_token_id=added[0] if added else bos,
        eos_token_ids=_with_end_of_turn(eos, tokenizer, template),
        add_bos_token=bool(added),
        chat_template=template,
    )


def _from_gguf(source: GgufFile) -> TokenizerFiles:
    settings = source.settings
    if settings.get(f"{_PREFIX}model") != "gpt2":
        raise TokenizerError(
            f"tokenizer.ggml.model is {settings.get(f'{_PREFIX}model')!r}; it must be 'gpt2' (byte-level BPE)"
        )
    kind = settings.get(f"{_PREFIX}pre", "default")
    bos = _optional_id(settings, f"{_PREFIX}bos_token_id")
    add_bos = settings.boolean(f"{_PREFIX}add_bos_token", kind in _LLAMA3)
    if settings.boolean(f"{_PREFIX}add_eos_token", False):
        raise TokenizerError("tokenizer.ggml.add_eos_token is true; completions need a prompt without an end")
    if add_bos and bos is None:
        raise TokenizerError(
            "tokenizer.ggml.add_bos_token is true, but there is no tokenizer.ggml.bos_token_id"
        )
    tokenizer = _build(settings, str(kind), bos if add_bos else None)
    template = settings.get("tokenizer.chat_template")
    ends = (f"{_PREFIX}{name}_token_id" for name in ("eos", "eot"))
    eos = {token_id for name in ends if (token_id := _optional_id(settings, name)) is not None}
    chat_template = template if isinstance(template, str) else None
    text = tokenizer.to_str(pretty=False)
    return TokenizerFiles(
        tokenizer_json=text,
        compiled=compile_tokenizer(text),
        bos_token_id=bos,
        eos_token_ids=_with_end_of_turn(eos, tokenizer, chat_template),
        add_bos_token=add_bos,
        chat_template=chat_template,
    )


def _build(settings: Settings, kind: str, added_bos: int | None) -> Tokenizer:
    tokens = _strings(settings, f"{_PREFIX}tokens")
    merges = _strings(settings, f"{_PREFIX}merges")
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    types = settings.get(f"{_PREFIX}token_type", [_NORMAL] * len(tokens))
    if not isinstance(types, Sequence) or len(types) != len(tokens):
        raise TokenizerError(
            f"tokenizer.ggml.token_type must have one entry for each of {len(tokens)} tokens"
        )
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise TokenizerError("tokenizer.ggml.tokens holds the same token twice")
    try:
        bpe = model_kinds.BPE(vocab=vocabulary, merges=pairs, ignore_merges=kind in _LLAMA3)
    except Exception as error:  # tokenizers raises bare Exception
        raise TokenizerError(f"tokenizer.ggml.merges do not fit tokenizer.ggml.tokens: {error}") from error
    tokenizer = Tokenizer(bpe)
    if kind == _QWEN2:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _splitter(kind)
    tokenizer.decoder = decoder_kinds.ByteLevel()
    _add_tokens(tokenizer, tokens, types)
    if added_bos is not None:
        if added_bos >= len(tokens):
            raise TokenizerError(
                f"tokenizer.ggml.bos_token_id is {added_bos}; there are {len(tokens)} tokens"
            )
        bos = tokens[added_bos]
        tokenizer.post_processor = processor_kinds.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=[(bos, added_bos)]
        )
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[object]) -> None:
    for token, token_type in zip(tokens, types, strict=True):
        if token_type in (_UNKNOWN, _CONTROL):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif token_type == _USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
        elif token_type not in (_NORMAL, _UNUSED):
            raise TokenizerError(
                f"tokenizer.ggml.token_type of {token!r} is {token_type}; no byte-level BPE has it"
            )


def _splitter(kind: str) -> splitters.PreTokenizer:
    plain = splitters.ByteLevel(add_prefix_space=False, use_regex=True)
    if kind in ("gpt-2", "default"):
        return plain
    if kind == "smollm":
        return splitters.Sequence([splitters.Digits(individual_digits=True), plain])
    if kind in _LLAMA3 or kind == _QWEN2:
        pattern = _QWEN2_WORDS if kind == _QWEN2 else _LLAMA3_WORDS
        words = splitters.Split(Regex(pattern), behavior="isolated")
        return splitters.Sequence([words, splitters.ByteLevel(add_prefix_space=False, use_regex=False)])
    allowed = ", ".join(("gpt-2", "default", "smollm", _QWEN2, *_LLAMA3))
    raise TokenizerError(f"tokenizer.ggml.pre is {kind!r}; it must be one of {allowed}")


def _parse(text: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception
        raise TokenizerError(f"tokenizer.json cannot be read: {error}") from error


def _default_template(value: object) -> str | None:
    if isinstance(value, list):
        templates = [item for item in value if isinstance(item, Mapping) and item.get("name") == "default"]
        value = templates[-1].get("template") if templates else None
    return value if isinstance(value, str) else None


def _with_end_of_turn(eos: Iterable[int], tokenizer: Tokenizer, template: str | None) -> tuple[int, ...]:
    turns = (tokenizer.token_to_id(token) for token in _END_OF_TURN if template and token in template)
    return tuple(sorted({*eos, *(token_id for token_id in turns if token_id is not None)}))


def _single_id(tokenizer: Tokenizer, token: object, token_id: object) -> int | None:
    named = _named_id(tokenizer, token)
    ids = _ids(token_id)
    return named if named is not None else (ids[0] if ids else None)


def _named_id(tokenizer: Tokenizer, token: object) -> int | None:
    content = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(content, str):
        return None
    token_id = tokenizer.token_to_id(content)
    return token_id if isinstance(token_id, int) else None


def _ids(value: object) -> list[int]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, int) and not isinstance(item, bool)]


def _optional_id(settings: Settings, name: str) -> int | None:
    return settings.integer(name, low=0, high=_MAX_TOKEN_ID) if name in settings else None


def _strings(settings: Settings, name: str) -> list[str]:
    value = settings.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TokenizerError(f"{name} must be a list of strings")
    return value
