"""The tokenizer's port against Hugging Face `tokenizers`, and tokenizer.json out of the model's folder."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import coreml_tokenizers as made
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from rubicc.backends.coreml.swift.ports.dna import reverse_complement
from rubicc.backends.coreml.swift.ports.heap import Heap
from rubicc.backends.coreml.swift.ports.tokenizer import Tokenizer
from rubicc.errors import ModelRefused, Unsupported, UsageError
from rubicc.frontend import read_model

KINDS: dict[str, dict[str, Any]] = {
    "gena": {},
    "fused": {"fuse": True},
    "words": {"pre": "Whitespace"},
    "spaces": {"pre": "WhitespaceSplit", "lowercase": True},
    "words fused": {"pre": "Whitespace", "lowercase": True, "fuse": True},
    "no frame": {"template": "$A"},
    "end only": {"template": "$A [SEP] [SEP]"},
}


@cache
def pair(kind: str) -> tuple[tokenizers.Tokenizer, Tokenizer]:
    reference = made.train(
        made.reference().lower() if KINDS[kind].get("lowercase") else made.reference(), **KINDS[kind]
    )
    return reference, Tokenizer(reference.to_str().encode())


def agree(kind: str, text: str) -> None:
    reference, ours = pair(kind)
    theirs, got = reference.encode(text), ours.encode(text)
    assert got.ids == theirs.ids
    body = [
        start
        for (start, _), special in zip(theirs.offsets, theirs.special_tokens_mask, strict=True)
        if not special
    ]
    wrapped = len(ours.before), len(got.starts) - len(ours.after)
    assert len(got.starts) == len(got.ids) and set(got.starts[: wrapped[0]]) <= {-1}
    if "[" not in text:
        assert got.starts[wrapped[0] : wrapped[1]] == body


# Bases with unknown letters, lower case, IUPAC codes, spaces, added tokens and what is not ASCII.
TEXTS = st.lists(
    st.one_of(
        st.text("ACGT", max_size=60),
        st.text("ACGTN", max_size=20),
        st.text("acgtnRYK-.", max_size=20),
        st.text(" \t\n_,>1", max_size=6),
        st.sampled_from(["[MASK]", "[UNK]", "[CLS]", "[MAS", "]", "[[SEP]]", ""]),
    ),
    max_size=8,
).map("".join)
WIDE = st.text(st.characters(codec="utf-8"), max_size=30)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_ids_and_places_equal_the_reference(kind: str, text: str) -> None:
    agree(kind, text)


@pytest.mark.parametrize("kind", ["gena", "fused"])
@settings(max_examples=80, deadline=None)
@given(text=WIDE)
def test_any_unicode_equals_the_reference(kind: str, text: str) -> None:
    agree(kind, text)


@settings(max_examples=60, deadline=None)
@given(text=WIDE)
def test_white_space_beyond_ascii_equals_the_reference(text: str) -> None:
    """U+001C to U+001F are white space to Python and not to Unicode: str.split would be wrong."""
    reference, ours = pair("spaces")
    assert ours.tokens(text).ids == reference.encode(text, add_special_tokens=False).ids
    assert (
        ours.tokens("ac\x1cgt\u2003ac").ids
        == reference.encode("ac\x1cgt\u2003ac", add_special_tokens=False).ids
    )


@pytest.mark.parametrize("kind", ["gena", "words fused"])
def test_long_sequence(kind: str) -> None:
    text = made.reference()[:30_000]
    agree(kind, text)
    agree(kind, text[:3000] + "N" * 500 + text[3000:6000].lower())


def test_merging_is_not_quadratic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue takes one entry per pair of letters and at most two per merge, whatever the length."""
    _, ours = pair("gena")
    text = made.reference()
    pushed = [0]
    push = Heap.push

    def counted(heap: Heap, entry: int) -> None:
        pushed[0] += 1
        push(heap, entry)

    monkeypatch.setattr(Heap, "push", counted)
    for length in (5_000, 20_000):
        pushed[0] = 0
        merges = length - len(ours.tokens(text[:length]).ids)
        assert merges > length / 2
        assert merges < pushed[0] <= length - 1 + 2 * merges


@pytest.mark.real_data
def test_real_sequence_of_both_strands(shared_data: Path) -> None:
    """A tokenizer trained on real references reads held-out ones as the library does."""
    home = shared_data / "mapped"
    reference = made.train("".join(fasta(home / "references_train.fasta")), 4000)
    ours = Tokenizer(reference.to_str().encode())
    read = fasta(home / "references_valid.fasta")
    assert len(read) > 0 and min(map(len, read)) > 500
    for sequence in read:
        for strand in (sequence, reverse_complement(sequence), sequence.lower()):
            assert ours.encode(strand).ids == reference.encode(strand).ids
    assert len(ours.encode(read[0]).ids) < len(read[0]) / 3


def fasta(path: Path) -> list[str]:
    """Sequences of a FASTA file."""
    records = path.read_text().split(">")[1:]
    return ["".join(record.splitlines()[1:]).strip() for record in records]


def test_heap_gives_the_smallest_first() -> None:
    heap = Heap()
    values = [(7919 * i) % 1009 for i in range(500)]
    for value in values:
        heap.push(value)
    taken = [heap.pop() for _ in values]
    assert taken == sorted(values) and heap.pop() is None


def test_merges_as_text_and_as_pairs() -> None:
    """Files written before tokenizers 0.20 hold "A C", later ones ["A", "C"]."""
    reference, ours = pair("gena")
    data = made.as_json(reference)
    assert isinstance(data["model"]["merges"][0], list)
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
    old = Tokenizer(made.as_bytes(data))
    assert old.ranks == ours.ranks and old.made == ours.made
    text = made.reference()[100:2000]
    assert old.encode(text) == ours.encode(text)
    assert tokenizers.Tokenizer.from_str(json.dumps(data)).encode(text).ids == old.encode(text).ids


def test_two_ways_to_one_token() -> None:
    """Merges of different pairs into one token: the queue's entry must survive a change of its pair."""
    vocab = {token: i for i, token in enumerate(["[UNK]", "A", "T", "AT", "TT", "ATT", "ATTT"])}
    for merges in (
        ["T T", "A T", "A TT", "AT T", "ATT T"],
        ["A T", "T T", "AT T", "A TT", "AT TT"],
        ["A TT", "T T", "AT T", "A T", "ATT T"],
    ):
        data = {
            "model": {"type": "BPE", "unk_token": "[UNK]", "vocab": vocab, "merges": merges},
            "added_tokens": [],
        }
        base = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "normalizer": None,
            "pre_tokenizer": None,
        }
        reference = tokenizers.Tokenizer.from_str(
            json.dumps(base | {"post_processor": None, "decoder": None} | data)
        )
        ours = Tokenizer(made.as_bytes(data))
        for number in range(3**7):
            text = "".join("ATN"[number // 3**i % 3] for i in range(7))
            assert ours.encode(text).ids == reference.encode(text).ids, (merges, text)


def test_letters_without_an_unknown_token_are_left_out() -> None:
    data = made.as_json(pair("gena")[0])
    data["model"]["unk_token"] = None
    reference, ours = tokenizers.Tokenizer.from_str(json.dumps(data)), Tokenizer(made.as_bytes(data))
    for text in ("ACGNNTTACG", "N", "ANCNGNT" * 9):
        assert ours.encode(text).ids == reference.encode(text).ids


def test_added_tokens_longest_first_and_normalized() -> None:
    reference = made.train(made.reference().lower(), lowercase=True)
    reference.add_tokens([tokenizers.AddedToken(t, normalized=True) for t in ("Gene", "Gen", "GeneX", "cat")])
    reference.add_special_tokens(["<A>", "<AC>"])
    ours = Tokenizer(reference.to_str().encode())
    for text in ("acGENExgenTgenecat", "<A><AC<AC>>CAT", "GENEXGEN gene<a>", "catcacat"):
        assert ours.encode(text).ids == reference.encode(text).ids, text


@pytest.mark.parametrize("processor", ["BertProcessing", "RobertaProcessing"])
def test_older_post_processors(processor: str) -> None:
    data = made.as_json(pair("gena")[0])
    data["post_processor"] = {"type": processor, "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}
    if processor == "RobertaProcessing":
        data["post_processor"] |= {"trim_offsets": True, "add_prefix_space": False}
    reference, ours = tokenizers.Tokenizer.from_str(json.dumps(data)), Tokenizer(made.as_bytes(data))
    assert ours.encode("ACGTACN").ids == reference.encode("ACGTACN").ids


@pytest.mark.parametrize(("length", "overlap"), [(16, 0), (16, 5), (16, 13), (64, 8), (512, 0)])
def test_windows_are_the_reference_overflowing_pieces(length: int, overlap: int) -> None:
    reference, ours = pair("gena")
    reference = copy.deepcopy(reference)
    reference.enable_truncation(length, stride=overlap)
    reference.enable_padding(pad_id=3, pad_token="[PAD]", length=length)
    for size in (0, 3, 60, 2000):
        text = made.reference()[50 : 50 + size]
        first = reference.encode(text)
        theirs = [first, *first.overflowing]
        windows = ours.windows(text, length, overlap)
        assert [window.ids for window in windows] == [piece.ids for piece in theirs]
        assert [window.mask for window in windows] == [piece.attention_mask for piece in theirs]
        assert all(len(window.ids) == len(window.starts) == length for window in windows)


def test_impossible_windows_and_missing_padding() -> None:
    data = made.as_json(pair("gena")[0])
    ours = Tokenizer(made.as_bytes(data))
    for length, overlap in ((2, 0), (16, 14), (16, -1)):
        with pytest.raises(UsageError, match="RUB-COREML-502"):
            ours.windows("ACGT", length, overlap)
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "[PAD]"]
    del data["model"]["vocab"]["[PAD]"]
    with pytest.raises(UsageError, match="padding"):
        Tokenizer(made.as_bytes(data)).windows("ACGT", 16)
    assert Tokenizer(made.as_bytes(data), pad=3).windows("ACGT", 16) == ours.windows("ACGT", 16)


def test_words_beyond_ascii_are_refused_not_guessed() -> None:
    with pytest.raises(UsageError, match="ASCII"):
        pair("words")[1].encode("ACGT\u00e9")


def _set(*path: str, to: Any) -> Any:
    def change(data: dict[str, Any]) -> None:
        place = data
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return change


CHANGES: dict[str, Any] = {
    "WordPiece": _set("model", "type", to="WordPiece"),
    "dropout": _set("model", "dropout", to=0.1),
    "prefix": _set("model", "continuing_subword_prefix", to="##"),
    "suffix": _set("model", "end_of_word_suffix", to="</w>"),
    "byte fallback": _set("model", "byte_fallback", to=True),
    "ignore_merges": _set("model", "ignore_merges", to=True),
    "unknown absent": _set("model", "unk_token", to="<none>"),
    "merge of strangers": _set("model", "merges", to=["A C", "X Y"]),
    "merge of three": _set("model", "merges", to=["A C G"]),
    "merge of numbers": _set("model", "merges", to=[[1, 2]]),
    "vocab as list": _set("model", "vocab", to=["A"]),
    "id too large": _set("model", "vocab", "A", to=2**31),
    "id negative": _set("model", "vocab", "A", to=-1),
    "id as truth": _set("model", "vocab", "A", to=True),
    "equivalent tokens": _set("model", "vocab", to={"[UNK]": 0, "\u00e9": 1, "e\u0301": 2}),
    "no model": _set("model", to=None),
    "NFKC": _set("normalizer", to={"type": "NFKC"}),
    "hidden NFKC": _set(
        "normalizer", to={"type": "Sequence", "normalizers": [{"type": "Lowercase"}, {"type": "NFKC"}]}
    ),
    "ByteLevel": _set(
        "pre_tokenizer", to={"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    ),
    "endless steps": _set(
        "pre_tokenizer",
        to=json.loads('{"type":"Sequence","pretokenizers":[' * 30 + '{"type":"Whitespace"}' + "]}" * 30),
    ),
    "processor": _set("post_processor", to={"type": "ByteLevel"}),
    "two sequences": _set(
        "post_processor", "single", to=[{"Sequence": {"id": "A"}}, {"Sequence": {"id": "B"}}]
    ),
    "strange token": _set(
        "post_processor", "single", to=[{"SpecialToken": {"id": "[X]"}}, {"Sequence": {"id": "A"}}]
    ),
    "strip": _set("added_tokens", to=[{"id": 4, "content": "[MASK]", "lstrip": True}]),
    "added without id": _set("added_tokens", to=[{"content": "[MASK]"}]),
    "padding": _set("padding", to={"pad_id": "x"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_exact_is_refused_with_a_reason(name: str) -> None:
    data = made.as_json(pair("gena")[0])
    CHANGES[name](data)
    with pytest.raises(Unsupported) as caught:
        Tokenizer(made.as_bytes(data))
    assert caught.value.code == "RUB-COREML-501" and len(caught.value.what) > 35


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"model": 3}'])
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Unsupported, match="RUB-COREML-501"):
        Tokenizer(data)


def bert_folder(folder: Path, data: bytes | None, head: str = "BertForMaskedLM", **extra: Any) -> Any:
    import torch

    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=500,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=3,
        **extra,
    )
    model = getattr(transformers, head)(config).eval()
    model.save_pretrained(folder)
    if data is not None:
        (folder / "tokenizer.json").write_bytes(data)
    return model


HEADS = (
    "BertModel",
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertForSequenceClassification",
    "BertForTokenClassification",
)


@pytest.mark.parametrize("head", HEADS)
def test_bert_classes_are_read_with_their_tokenizer(head: str, tmp_path: Path) -> None:
    import torch

    data = pair("gena")[0].to_str().encode()
    model = bert_folder(tmp_path / "m", data, head, num_labels=3)
    source = read_model(tmp_path / "m")
    assert source.assets == {"tokenizer.json": data}
    ids = torch.tensor([pair("gena")[1].windows("ACGTTTGACA", 24)[0].ids])
    mask = torch.tensor([[int(x) for x in pair("gena")[1].windows("ACGTTTGACA", 24)[0].mask]])
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=mask)
        ours = source.module(ids, mask)  # type: ignore[misc]
    theirs = next(
        getattr(output, n) for n in ("prediction_logits", "logits", "last_hidden_state") if hasattr(output, n)
    )
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert source.meta is not None and source.meta.outputs[0].shape[-1] == theirs.shape[-1]


def test_folder_without_tokenizer_has_no_assets(tmp_path: Path) -> None:
    bert_folder(tmp_path / "m", None)
    source = read_model(tmp_path / "m")
    assert dict(source.assets) == {}
    (tmp_path / "m" / "tokenizer.json").write_bytes(pair("gena")[0].to_str().encode())
    assert read_model(tmp_path / "m").sha256 != source.sha256


@pytest.mark.parametrize("data", [b"version https://git-lfs.github.com/spec/v1", b"[1]", b"", b"[" * 50_000])
def test_broken_tokenizer_file_is_refused(data: bytes, tmp_path: Path) -> None:
    bert_folder(tmp_path / "m", data)
    with pytest.raises(ModelRefused, match=r"RUB-READ-0(40|03)"):
        read_model(tmp_path / "m")


def test_tokenizer_outside_the_folder_is_refused(tmp_path: Path) -> None:
    bert_folder(tmp_path / "m", None)
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "m" / "tokenizer.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ModelRefused, match="RUB-READ-080"):
        read_model(tmp_path / "m")


def test_too_large_a_tokenizer_is_refused_unread(tmp_path: Path) -> None:
    bert_folder(tmp_path / "m", None)
    with (tmp_path / "m" / "tokenizer.json").open("wb") as handle:
        handle.truncate(65 << 20)
    with pytest.raises(ModelRefused, match="RUB-READ-005"):
        read_model(tmp_path / "m")
