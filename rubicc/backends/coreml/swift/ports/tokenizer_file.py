"""Port of ``TokenizerFile.swift``: the parts of a Hugging Face tokenizer.json that decide the ids of a text.

Swift's ``Decodable`` refuses what has the wrong form; here that is done by hand, and beyond it what only the
compiler can check for the app: bounds, ids, and that Swift's strings, which compare by canonical equivalence,
cannot confuse two tokens.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from typing import Any

from rubicc.backends.coreml.swift.ports.refusals import tokenizer_refused
from rubicc.text import first_line, printable

MOST_BYTES = 64 << 20
MOST_ID = (1 << 31) - 1
_SEQUENCES = ("normalizers", "pretokenizers")


@dataclass(frozen=True)
class BytePairs:
    """``model`` of the file."""

    type: str | None
    vocab: dict[str, int]
    merges: list[tuple[str, str]]
    dropout: float | None
    unknown: str | None
    fuse_unknown: bool | None
    prefix: str | None
    suffix: str | None
    byte_fallback: bool | None
    ignore_merges: bool | None


@dataclass(frozen=True)
class AddedToken:
    """One of ``added_tokens``."""

    id: int
    content: str
    single_word: bool | None
    lstrip: bool | None
    rstrip: bool | None
    normalized: bool | None


@dataclass(frozen=True)
class PostProcessor:
    """``post_processor``; ``single`` holds ``("special", name)`` and ``("sequence", name)``."""

    type: str
    single: list[tuple[str, str]]
    special_tokens: dict[str, list[int]]
    cls: int | None
    sep: int | None


@dataclass(frozen=True)
class TokenizerFile:
    """The parts that are read; ``normalizer`` and ``pre_tokenizer`` as types in order, sequences opened."""

    model: BytePairs
    added_tokens: list[AddedToken]
    normalizer: list[str]
    pre_tokenizer: list[str]
    post_processor: PostProcessor | None
    padding: int | None


def parse(data: bytes) -> TokenizerFile:
    """The file's content.

    Raises:
        Unsupported: ``RUB-COREML-501``: not JSON, a part of the wrong form, or something Swift cannot hold.
    """
    if len(data) > MOST_BYTES:
        raise tokenizer_refused(f"{len(data)} bytes, at most {MOST_BYTES} are read")
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise tokenizer_refused(f"not JSON: {first_line(err)}") from err
    try:
        return TokenizerFile(
            model=_model(_typed(root["model"], dict)),
            added_tokens=[_added(item) for item in root.get("added_tokens") or []],
            normalizer=types(root.get("normalizer"), 0),
            pre_tokenizer=types(root.get("pre_tokenizer"), 0),
            post_processor=_processor(root.get("post_processor")),
            padding=None if root.get("padding") is None else _id(root["padding"]["pad_id"]),
        )
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as err:
        raise tokenizer_refused(f"a part has the wrong form: {type(err).__name__} {first_line(err)}") from err


def types(step: Any, depth: int) -> list[str]:
    """Types of the steps in order, sequences opened."""
    if step is None:
        return []
    if depth > 8:
        raise tokenizer_refused("sequences of steps are nested too deeply")
    name = _typed(step["type"], str)
    if name != "Sequence":
        return [name]
    return [kind for key in _SEQUENCES for part in step.get(key) or [] for kind in types(part, depth + 1)]


def _model(data: dict[str, Any]) -> BytePairs:
    vocab = {_typed(token, str): _id(number) for token, number in _typed(data["vocab"], dict).items()}
    # Swift's dictionary of strings would take two spellings of one text for one key.
    if any(not token.isascii() for token in vocab):
        spellings = {unicodedata.normalize("NFC", token) for token in vocab}
        if len(spellings) != len(vocab):
            raise tokenizer_refused("two tokens are canonically equivalent Unicode")
    return BytePairs(
        type=_maybe(data, "type", str),
        vocab=vocab,
        merges=[_pair(item) for item in _typed(data["merges"], list)],
        dropout=_maybe(data, "dropout", float),
        unknown=_maybe(data, "unk_token", str),
        fuse_unknown=_maybe(data, "fuse_unk", bool),
        prefix=_maybe(data, "continuing_subword_prefix", str),
        suffix=_maybe(data, "end_of_word_suffix", str),
        byte_fallback=_maybe(data, "byte_fallback", bool),
        ignore_merges=_maybe(data, "ignore_merges", bool),
    )


def _pair(item: Any) -> tuple[str, str]:
    """Two tokens that become one: ``"A C"`` in older files, ``["A", "C"]`` in newer ones."""
    if isinstance(item, list):
        left, right = (_typed(part, str) for part in item)
        return left, right
    parts = _typed(item, str).split(" ")
    if len(parts) != 2:
        raise tokenizer_refused(f"a merge is not two tokens: {printable(item, 40)}")
    return parts[0], parts[1]


def _added(item: Any) -> AddedToken:
    return AddedToken(
        id=_id(item["id"]),
        content=_typed(item["content"], str),
        single_word=_maybe(item, "single_word", bool),
        lstrip=_maybe(item, "lstrip", bool),
        rstrip=_maybe(item, "rstrip", bool),
        normalized=_maybe(item, "normalized", bool),
    )


def _processor(data: Any) -> PostProcessor | None:
    if data is None:
        return None
    single = []
    for piece in data.get("single") or []:
        if "Sequence" in piece:
            single.append(("sequence", _typed(piece["Sequence"]["id"], str)))
        else:
            single.append(("special", _typed(piece["SpecialToken"]["id"], str)))
    tokens = data.get("special_tokens") or {}
    return PostProcessor(
        type=_typed(data["type"], str),
        single=single,
        special_tokens={name: [_id(number) for number in token["ids"]] for name, token in tokens.items()},
        cls=_id(data["cls"][1]) if data.get("cls") else None,
        sep=_id(data["sep"][1]) if data.get("sep") else None,
    )


def _id(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_ID:
        raise ValueError(f"token id {str(value)[:20]}")
    return value


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} where {kind.__name__} belongs")
    return value


def _maybe(data: Any, key: str, kind: type) -> Any:
    value = data.get(key)
    if value is not None and kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return None if value is None else _typed(value, kind)
