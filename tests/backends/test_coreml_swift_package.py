"""The emitted Swift package: it parses, nobody's names become code, bytes are equal, vectors hold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from swift_packages import KINDS, Made, basecaller, classifier, language_model, nodes, parse, shape

from rubicc.backends.coreml import tools
from rubicc.backends.coreml.swift import writer
from rubicc.backends.coreml.swift.names import comment, literal, number, property_names, type_name
from rubicc.errors import Unsupported, VerificationFailed
from rubicc.spec import DecoderSpec, SignalSpec, TensorSpec

# What could end a literal, a comment or a line, or turn the reading direction.
HOSTILE = (
    '"); fatalError() //\\(exit(1))\n*/ import Evil \u202e\u2066\u2028\x00\x1b[2J\ud800 __Type__ ${name} `'
)
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def sources(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    made: dict[str, dict[str, bytes]] = {}

    def files(kind: str) -> dict[str, bytes]:
        if kind not in made:
            folder = tmp_path_factory.mktemp("swift")
            names = KINDS[kind]().write(folder)
            made[kind] = sources(folder)
            assert names == tuple(sorted(made[kind]))
        return made[kind]

    return files


@pytest.mark.parametrize("kind", KINDS)
def test_swift_parses(kind: str, written: Callable[[str], dict[str, bytes]]) -> None:
    found = {path: data for path, data in written(kind).items() if path.endswith(".swift")}
    assert len(found) >= 6
    for path, data in found.items():
        wrong = [n for n in nodes(parse(data)) if n.type == "ERROR" or n.is_missing]
        assert not wrong, (path, wrong[0].start_point, wrong[0].text)
        assert not re.search(rb"__[A-Za-z_]+__", data), path
        assert data.endswith(b"\n") and b"\t" not in data
        assert max(map(len, data.decode().splitlines())) <= 140, path


def test_the_grammar_sees_a_missing_brace_and_a_stray_word() -> None:
    data = writer._copy("Heap")
    for wrong in (data.replace(b"{", b"", 1), data + b"}", data.replace(b"-> Int?", b"-> -> Int?")):
        assert parse(wrong).has_error
    assert not parse(data).has_error


@pytest.mark.parametrize("kind", KINDS)
def test_package_names_what_exists(kind: str, written: Callable[[str], dict[str, bytes]]) -> None:
    files = written(kind)
    manifest = files["Swift/Package.swift"].decode()
    module = re.search(r'\.target\(name: "(\w+)"', manifest)
    assert module is not None
    targets = {path.split("/")[2] for path in files if "/Sources/" in path or "/Tests/" in path}
    assert targets == {module[1], f"{module[1]}Tests"}
    assert manifest.startswith("// swift-tools-version: 5.9\n")
    assert '.iOS("17.0")' in manifest and '.macOS("14.0")' in manifest
    resource = f"Swift/Sources/{module[1]}/tokenizer.json"
    assert ('resources: [.copy("tokenizer.json")]' in manifest) == (resource in files)
    assert any(path.startswith(f"Swift/Tests/{module[1]}Tests/Vectors/") for path in files)
    tests = [data for path, data in files.items() if path.endswith("Tests.swift")]
    assert tests and all(f"@testable import {module[1]}\n".encode() in data for data in tests)
    assert all(b"func test" in data for data in tests)


@pytest.mark.parametrize("kind", KINDS)
def test_readme_is_ten_lines_and_honest(kind: str, written: Callable[[str], dict[str, bytes]]) -> None:
    text = written(kind)["Swift/README.md"].decode()
    lines = text.rstrip("\n").splitlines()
    assert len(lines) <= 10, text
    assert "No Swift compiler ran when this package was written" in text and "`swift test`" in text
    assert "mlpackage" in text and "Add Local" in text and "await" in text
    assert ("decodes CTC greedily" in text) == (kind == "ctc")
    assert ("Float16 inputs need Apple silicon" in text) == (kind == "no metadata")


@pytest.mark.parametrize("kind", ["flip-flop", "language model", "no metadata"])
def test_equal_input_gives_equal_bytes(kind: str, tmp_path: Path) -> None:
    KINDS[kind]().write(tmp_path / "a")
    KINDS[kind]().write(tmp_path / "b")
    assert sources(tmp_path / "a") == sources(tmp_path / "b")


@pytest.mark.parametrize("target", tools.OPSETS)
def test_every_target_has_its_platforms(target: str, tmp_path: Path) -> None:
    KINDS["no metadata"]().write(tmp_path, target=target)
    manifest = (tmp_path / "Swift/Package.swift").read_text()
    ios, macos = re.findall(r'\("(\d+)\.0"\)', manifest)
    opset = tools.OPSETS[target]
    assert (f"iOS{ios}", f"macOS {macos}") == (target, opset.macos.split(" or ")[0].strip())


def hostile(made: Made) -> Made:
    """The same model with hostile names everywhere: file, tensors, features, architecture, task."""
    inputs = tuple(replace(spec, name=f"{spec.name}{HOSTILE}") for spec in made.inputs)
    outputs = tuple(replace(spec, name=f"{spec.name}{HOSTILE}") for spec in made.outputs)
    renamed = {spec.name: f"{i}{HOSTILE}" for i, spec in enumerate((*inputs, *outputs))}
    meta = made.meta and replace(made.meta, arch=HOSTILE, inputs=inputs, outputs=outputs)
    return replace(made, name=HOSTILE, inputs=inputs, outputs=outputs, meta=meta, features=renamed)


@pytest.mark.parametrize("kind", ["flip-flop", "no metadata"])
def test_names_of_strangers_never_become_code(kind: str, tmp_path: Path) -> None:
    """Every file has the tree of the harmless one: names differ inside literals and identifiers only."""
    plain = KINDS[kind]()
    plain.write(tmp_path / "plain")
    hostile(plain).write(tmp_path / "hostile")
    harmless, found = sources(tmp_path / "plain"), sources(tmp_path / "hostile")

    def neutral(path: str) -> str:
        return re.sub(r"(FatalErrorExit1ImportEvil2JTypeName|Caller|Model)(?=Package|Network)", "X", path)

    assert {neutral(path) for path in harmless} == {neutral(path) for path in found}
    by_name = {neutral(path): data for path, data in found.items()}
    for path, data in harmless.items():
        other = by_name[neutral(path)]
        if path.endswith(".swift"):
            assert shape(parse(other)) == shape(parse(data)), path
        assert not set(other.decode()) & {"\u202e", "\u2066", "\u2028", "\0", "\x1b"}, path


def test_hostile_alphabets_stay_letters(tmp_path: Path) -> None:
    harmless = basecaller("demo-ctc", 5, 3000)
    harmless.write(tmp_path / "plain")
    for place, alphabet in enumerate(('N"\\(x', "\\\\\\\\\\", '"""""', "*/\\#("[:5])):
        made = basecaller("demo-ctc", 5, 3000, alphabet=alphabet)
        made.write(tmp_path / f"{place}")
        facts = (tmp_path / f"{place}/Swift/Sources/CallerPackage/Facts.swift").read_bytes()
        plain = (tmp_path / "plain/Swift/Sources/CallerPackage/Facts.swift").read_bytes()
        assert shape(parse(facts)) == shape(parse(plain))
    for alphabet in ("NAC\u0301G", "NACG\n", "NACG\u202e"):
        made = basecaller("demo-ctc", 5, 3000, alphabet=alphabet)
        assert "alphabet" in made.decisions()["RUB-COREML-D51"]


def test_hostile_tokenizer_strings_stay_in_their_file(tmp_path: Path) -> None:
    """Tokens and steps with any content are data; they stand in no Swift source."""
    made = language_model()
    data = json.loads(made.assets["tokenizer.json"])
    data["added_tokens"].append({"id": 499, "content": HOSTILE.replace("\ud800", ""), "special": True})
    replace(made, assets={"tokenizer.json": json.dumps(data).encode()}).write(tmp_path / "a")
    made.write(tmp_path / "b")
    changed, plain = sources(tmp_path / "a"), sources(tmp_path / "b")
    assert {path for path in plain if plain[path] != changed[path]} == {
        "Swift/Sources/DnaBertPackage/tokenizer.json"
    }
    for part in ("normalizer", "pre_tokenizer", "post_processor"):
        broken = dict(data) | {part: {"type": HOSTILE}}
        reason = replace(made, assets={"tokenizer.json": json.dumps(broken).encode()}).decisions()
        assert reason["RUB-COREML-D50"].isprintable()


def unescaped(text: str) -> str:
    """What a Swift compiler reads in a one-line literal (The Swift Programming Language, String Literals)."""
    assert text[0] == text[-1] == '"'
    out, rest = "", text[1:-1]
    while rest:
        if rest[0] == "\\":
            found = re.match(r'\\(?:(["\\])|u\{([0-9a-f]{1,8})\})', rest)
            assert found is not None, rest
            out += found[1] or chr(int(found[2], 16))
            rest = rest[found.end() :]
        else:
            assert rest[0] not in '"\n\r'
            out, rest = out + rest[0], rest[1:]
    return out


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(), max_size=40) | st.text('\\"()u{}41\n', max_size=20))
def test_literals_hold_exactly_their_text(text: str) -> None:
    made = literal(text)
    assert made.isprintable()
    assert unescaped(made) == "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF else c for c in text)
    root = parse(f"let x = {made}\n".encode())
    assert not root.has_error and not any(n.type == "interpolated_expression" for n in nodes(root))


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(st.text(max_size=12) | st.sampled_from(["self", "init", "features", "a b", "a_b", "aB"]))
)
def test_properties_are_identifiers_and_differ(names: list[str]) -> None:
    made = property_names(names)
    assert len(set(made)) == len(made) == len(names)
    assert all(IDENTIFIER.match(word) for word in made)
    assert not {"self", "init", "in", "features", "check", "array", "model"} & set(made)
    source = "struct S {\n" + "".join(f"    public var {word}: Int\n" for word in made) + "}\n"
    assert not parse(source.encode()).has_error


@given(name=st.text(max_size=100))
def test_types_are_identifiers(name: str) -> None:
    assert IDENTIFIER.match(type_name(name)) and not type_name(name)[0].islower()


def test_comments_and_numbers() -> None:
    assert "\n" not in comment("a\nb\u2028c\rd") and len(comment("x" * 500)) == 120
    assert number(3) == "3.0" and float(number(1e-9)) == 1e-9
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="literal"):
            number(value)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "complex64"])
def test_types_without_swift_are_refused(dtype: str, tmp_path: Path) -> None:
    made = Made(None, (TensorSpec("x", (1,), dtype),), (TensorSpec("y", (1,)),))
    with pytest.raises(Unsupported, match="RUB-COREML-505"):
        made.write(tmp_path)
    assert not list(tmp_path.iterdir())


NAN, INF = float("nan"), float("inf")
BAD: dict[str, dict[str, Any]] = {
    "no stride": {"stride": None},
    "stride 0": {"stride": 0},
    "stride as text": {"stride": "3"},
    "overlap below 0": {"overlap": -4},
    "overlap too large": {"overlap": 2**40},
    "overlap of a window": {"overlap": 3000},
    "rate 0": {"signal": SignalSpec("med-mad", sampling_rate=0)},
    "rate NaN": {"signal": SignalSpec("med-mad", sampling_rate=NAN)},  # type: ignore[arg-type]
    "unknown normalisation": {"signal": SignalSpec(HOSTILE)},  # type: ignore[arg-type]
    "deviation 0": {"signal": SignalSpec("pa", {"stdev": 0.0})},
    "quantile infinite": {"signal": SignalSpec("quantile", {"quantile_a": INF})},
    "quantile as text": {"signal": SignalSpec("quantile", {"quantile_a": "1"})},  # type: ignore[dict-item]
    "unknown decoder": {"decoder": DecoderSpec(HOSTILE)},  # type: ignore[arg-type]
    "quality NaN": {"decoder": DecoderSpec("ctc", {}, NAN)},
    "states without end": {"decoder": DecoderSpec("crf", {"state_len": 10**9})},
    "states as text": {"decoder": DecoderSpec("crf", {"state_len": "3"})},  # type: ignore[dict-item]
    "states of another network": {"decoder": DecoderSpec("crf", {"state_len": 3})},
    "flip-flop of five columns": {"decoder": DecoderSpec("flipflop")},
    "letters without columns": {"alphabet": "NACGTU"},
}


@pytest.mark.parametrize("case", BAD)
def test_metadata_nobody_checked_cost_the_basecaller_only(case: str, tmp_path: Path) -> None:
    made = basecaller("demo-ctc", 5, 3000)
    assert made.meta is not None
    made = replace(made, meta=replace(made.meta, **BAD[case]))
    reason = made.decisions()["RUB-COREML-D51"]
    assert len(reason) > 20 and reason.isprintable()
    files = made.write(tmp_path)
    assert not any("Basecaller" in path for path in files)
    assert "Swift/Sources/CallerPackage/CallerNetwork.swift" in files
    assert "no basecaller" in (tmp_path / "Swift/README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (
            "language model",
            (
                "inputIds: MLShapedArray<Int32>(scalars: window.ids, shape: [1, 32])",
                "attentionMask: MLShapedArray<Int32>(scalars: window.mask.map { Int32($0) }, shape: [1, 32])",
            ),
        ),
        (
            "float mask",
            ("attentionMask: MLShapedArray<Float>(scalars: window.mask.map { Float($0) }, shape: [1, 32])",),
        ),
        (
            "classifier",
            (
                "tokenTypeIds: MLShapedArray<Int32>(scalars: window.ids.map { _ in Int32(0) }, ",
                "(scalars: window.mask.map { (Float($0) - 1) * 10000.0 }, shape: [1, 1, 1, 32])",
            ),
        ),
    ],
)
def test_windows_become_the_inputs_that_the_model_has(
    kind: str, lines: tuple[str, ...], written: Callable[[str], dict[str, bytes]]
) -> None:
    (text,) = (data for path, data in written(kind).items() if path.endswith("/Sequences.swift"))
    for line in lines:
        assert line in text.decode()


def without(**changes: Any) -> Made:
    return replace(language_model(), **changes)


def test_why_a_tokenizer_is_left_out() -> None:
    made = language_model()
    assert made.meta is not None and not made.decisions() and not classifier().decisions()
    ids, mask = made.inputs
    small = replace(made.meta, config={"vocab_size": 499, "pad_token_id": 3})
    cases = {
        "without a tokenizer.json": without(assets={}),
        "not JSON": without(assets={"tokenizer.json": b"{"}),
        "499 embeddings": without(meta=small),
        "leave no room": without(inputs=tuple(replace(spec, shape=(1, 2)) for spec in made.inputs)),
        "4 sequences at once": without(inputs=(replace(ids, shape=(4, 32)), mask)),
        "gives nothing for": without(inputs=(ids, mask, TensorSpec("strange", (1, 7)))),
    }
    for words, case in cases.items():
        assert words in case.decisions()["RUB-COREML-D50"], words


def test_vectors_of_the_model_are_the_run(tmp_path: Path) -> None:
    made = basecaller("taiyaki-mgru", 40, 4000)
    made.write(tmp_path)
    run = made.vectors()
    recorded = json.loads(
        (tmp_path / "Swift/Tests/CallerPackageTests/Vectors/model_vectors.json").read_text()
    )
    assert np.array_equal(np.array(recorded["inputs"]["x"]["values"], np.float32), run.inputs["x"].ravel())
    output = recorded["outputs"]["y"]
    assert output["shape"] == [1000, 1, 40] and 2000 < len(output["places"]) <= 4096
    assert np.array_equal(
        np.array(output["values"], np.float32), run.outputs["y"].ravel()[output["places"]].astype(np.float32)
    )


def test_a_run_too_large_for_json_or_none_gives_no_model_test(tmp_path: Path) -> None:
    files = basecaller("demo-ctc", 5, 300_000).write(tmp_path / "a")
    assert not any("ModelTests" in path for path in files) and any(
        "BasecallerTests" in path for path in files
    )
    files = KINDS["no metadata"]().write(tmp_path / "b", run=False)
    assert "Swift/Tests/ModelPackageTests/Vectors/none.json" in files


def test_vectors_of_the_tokenizer_are_the_reference(tmp_path: Path) -> None:
    made = language_model()
    made.write(tmp_path)
    reference = tokenizers.Tokenizer.from_str(made.assets["tokenizer.json"].decode())
    recorded = json.loads(
        (tmp_path / "Swift/Tests/DnaBertPackageTests/Vectors/tokenizer_vectors.json").read_text()
    )
    assert len(recorded["texts"]) >= 8
    for one in recorded["texts"]:
        assert reference.encode(one["text"]).ids == one["ids"]
    reference.enable_truncation(recorded["length"], stride=recorded["overlap"])
    reference.enable_padding(pad_id=3, pad_token="[PAD]", length=recorded["length"])
    first = reference.encode(recorded["texts"][-1]["text"])
    assert recorded["windows"] == [piece.ids for piece in (first, *first.overflowing)]
    assert len(recorded["windows"]) > 3


@pytest.mark.parametrize("kind", ["ctc", "flip-flop", "crf", "language model"])
def test_verification_runs_the_vectors_again(kind: str, tmp_path: Path) -> None:
    made: Made = KINDS[kind]()
    made.write(tmp_path)
    (name,) = made.verify(tmp_path)
    (path,) = tmp_path.glob(f"Swift/Tests/*/Vectors/{name}")
    good = path.read_bytes()
    data = json.loads(good)
    changed = [b"", b"[]", b"[" * 100_000, b"\xff", good.replace(b"1", b"2", 1), good[:-2]]
    if "scores" in data:
        changed += [
            json.dumps({**data, "columns": 7}).encode(),
            json.dumps({**data, "scores": ["x"]}).encode(),
            json.dumps({**data, "scores": None}).encode(),
            json.dumps({**data, "sequence": data["sequence"] + "A"}).encode(),
        ]
    for wrong in changed:
        path.write_bytes(wrong)
        with pytest.raises(VerificationFailed, match="RUB-COREML-506"):
            made.verify(tmp_path)
    path.write_bytes(good)
    assert made.verify(tmp_path) == (name,)


def test_verification_finds_another_tokenizer(tmp_path: Path) -> None:
    made = language_model()
    made.write(tmp_path)
    (path,) = tmp_path.glob("Swift/Sources/*/tokenizer.json")
    data = json.loads(path.read_bytes())
    data["model"]["merges"] = data["model"]["merges"][:200]
    path.write_text(json.dumps(data))
    with pytest.raises(VerificationFailed, match="tokenizer_vectors"):
        made.verify(tmp_path)
