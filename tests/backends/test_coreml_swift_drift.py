"""The Swift text itself, carried out by :mod:`swift_machine`: equal to its ports and to the references."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import coreml_tokenizers
import numpy as np
import pytest
import swift_packages
from swift_machine import Machine
from swift_values import Array, Double, Float, Int, Int16, Int32, SwiftError, Thrown, UInt8
from test_coreml_tokenizer import CHANGES, KINDS, pair

from rubicc.backends.coreml import swift
from rubicc.backends.coreml.swift.ports import calls, chunks, crf, ctc, dna, flip_flop, signal
from rubicc.backends.coreml.swift.ports.tokenizer import Tokenizer
from rubicc.errors import RubiccError
from rubicc.genomics import chunks as engine_chunks
from rubicc.genomics import normalise as engine_normalise
from rubicc.genomics.decode import decode_read
from rubicc.genomics.reads import Read
from rubicc.spec import TensorSpec

TEMPLATES = Path(swift.__file__).parent / "templates"
FILES = (
    *("Calls", "Chunks", "CRF", "CTC", "DNA", "FlipFlop", "Heap", "ModelError", "Signal"),
    *("Tokenizer", "TokenizerFile"),
)


def source(name: str) -> str:
    return (TEMPLATES / f"{name}.swift").read_text()


@cache
def machine() -> Machine:
    return Machine(map(source, FILES))


def test_every_algorithm_of_the_package_is_run_here() -> None:
    assert {*FILES, "LoadVectors"} == {path.stem for path in TEMPLATES.glob("*.swift")}


def floats(values: Any) -> Array:
    return Array((Float(v) for v in array("f", np.asarray(values, np.float32).ravel().tolist())), Float)


def swift_scores(run: Machine, scores: np.ndarray) -> Any:
    return run.new(run.types["Scores"], ("values", "columns"), floats(scores), Int(scores.shape[1]))


def path_of(found: Any) -> tuple[Any, ...]:
    assert {type(v) for v in found.moves} <= {UInt8} and {type(v) for v in found.errors} <= {Double}
    return list(found.moves), list(found.codes), list(found.errors)


def drawn(frames: int, columns: int, seed: int = 0, spread: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (frames, columns)).astype(np.float32)


def logs(scores: np.ndarray) -> np.ndarray:
    made: np.ndarray = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return made


def port_scores(scores: np.ndarray) -> calls.Scores:
    return calls.Scores(array("f", scores.astype(np.float32).ravel().tolist()), scores.shape[1])


def same_path(found: Any, port: calls.BasePath) -> None:
    moves, codes, errors = path_of(found)
    assert (moves, codes) == (port.moves, port.codes)
    assert errors == port.errors  # to the last bit: same operations in the same order and precision


# What holds Swift and port together, by name; each takes a machine, so that the mutants can be run.


def check_ctc(run: Machine) -> None:
    for frames in (0, 1, 30):
        scores = logs(drawn(frames, 5, frames, 3.0))
        same_path(
            run.call(run.types["CTC"], "decode", (None,), swift_scores(run, scores)),
            ctc.decode(port_scores(scores)),
        )


def check_flip_flop(run: Machine) -> None:
    for frames in (0, 1, 25):
        scores = drawn(frames, 40, frames)
        found = run.call(run.types["FlipFlop"], "decode", (None,), swift_scores(run, scores))
        same_path(found, flip_flop.decode(port_scores(scores)))


def check_crf(run: Machine) -> None:
    for columns in (64, 80):
        scores = drawn(12, columns, columns)
        labels = (None, "states", "blank")
        found = run.call(run.types["CRF"], "decode", labels, swift_scores(run, scores), Int(16), Float(2.0))
        same_path(found, crf.decode(port_scores(scores), 16, 2.0))


def check_calls(run: Machine) -> None:
    """A whole read in one piece and in segments, with calibrated qualities."""
    scores = drawn(90, 40, 7, 3.0)
    for context, longest in ((1024, 65536), (4, 20)):
        run.types["Calls"].held.update(context=Int(context), segmentFrames=Int(longest))
        held = calls.CONTEXT, calls.SEGMENT_FRAMES
        calls.CONTEXT, calls.SEGMENT_FRAMES = context, longest
        try:
            labels = ("find", "letters", "qualityScale", "qualityBias")
            find = lambda given: run.call(run.types["FlipFlop"], "decode", (None,), given)  # noqa: E731
            decoder = run.new(run.types["ReadDecoder"], labels, find, "ACGT", Double(1.1), Double(-0.4))
            found = run.call(decoder, "decode", (None,), swift_scores(run, scores))
            port = calls.ReadDecoder(flip_flop.decode, "ACGT", 1.1, -0.4).decode(port_scores(scores))
        finally:
            calls.CONTEXT, calls.SEGMENT_FRAMES = held
            run.types["Calls"].held.clear()
        assert (found.sequence, found.qualities) == (port.sequence, port.qualities)
        assert len(found.sequence) > 10
        assert list(found.moves) == port.moves and found.meanQuality == port.mean_quality


def check_signal(run: Machine) -> None:
    samples = np.random.default_rng(3).integers(-900, 900, 50).tolist()
    read = signal.RawRead(samples, 12.5, 0.1765, 4000.0)
    labels = ("samples", "offset", "scale", "samplingRate")
    given = Array(map(Int16, samples), Int16), Double(12.5), Double(0.1765), Double(4000.0)
    raw = run.new(run.types["RawRead"], labels, *given)
    way = run.types["Normalisation"]
    ways = {
        signal.Normalisation("medianDeviation"): run.get(way, "medianDeviation"),
        signal.Normalisation("none"): run.get(way, "none"),
        signal.Normalisation("picoampere", (90.0, 20.0)): run.call(
            way, "picoampere", ("mean", "deviation"), Double(90.0), Double(20.0)
        ),
        signal.Normalisation("quantile", (0.2, 0.9, 0.51, 0.53)): run.call(
            way, "quantile", ("lower", "upper", "shift", "scale"), *map(Double, (0.2, 0.9, 0.51, 0.53))
        ),
    }
    asked = (None, None, "samplingRate")
    for port, swift_way in ways.items():
        found = run.call(run.types["Signal"], "normalise", asked, raw, swift_way, Double(4000.0))
        assert list(found) == list(signal.normalise(read, port, 4000.0)) and found.element is Float
    with pytest.raises(Thrown, match="signalRefused"):
        run.call(
            run.types["Signal"], "normalise", asked, raw, ways[signal.Normalisation("none")], Double(5000.0)
        )


def check_chunks(run: Machine) -> None:
    kind = run.types["Chunks"]
    for samples, length, overlap, stride, fixed in (
        (50, 40, 20, 5, True),
        (7, 40, 8, 2, True),
        (97, 30, 12, 3, False),
    ):
        labels = ("length", "overlap", "stride", "fixed")
        plan = run.new(run.types["Plan"], labels, Int(length), Int(overlap), Int(stride), fixed)
        found = run.call(kind, "cuts", ("samples", "plan"), Int(samples), plan)
        port = chunks.cuts(samples, chunks.Plan(length, overlap, stride, fixed))
        assert [(c.start, c.length, getattr(c, "from"), c.to) for c in found] == [
            (c.start, c.length, c.first, c.last) for c in port
        ]
        wave = np.arange(samples) / 7
        for ours, theirs in zip(found, port, strict=True):
            row = run.call(kind, "fill", (None, None), floats(wave), ours)
            assert list(row) == list(chunks.fill(floats_port(wave), theirs))
            frames = np.arange(2 * length // stride)
            kept = run.call(
                kind, "kept", (None, None, "columns", "stride"), floats(frames), ours, Int(2), Int(stride)
            )
            assert list(kept) == list(chunks.kept(floats_port(frames), theirs, 2, stride))


def floats_port(values: Any) -> array[float]:
    return array("f", np.asarray(values, np.float32).tolist())


def check_dna(run: Machine) -> None:
    text = "ACGTURYKMBVDHNSWacgtu-*\u00e9"
    found = run.call(run.types["DNA"], "reverseComplement", (None,), text)
    assert found == dna.reverse_complement(text)


TEXTS = (
    "",
    "ACGTTGCAACGTACGTTTGACGTAGACATACGAT",
    "acgtNNNNRYACGnnTTA",
    " AC GT_,\tTTT,ACC\n",
    "[MASK]ACG[MAS[SEP]]T[UNK]AC",
    coreml_tokenizers.reference()[:600],
)


def swift_tokenizer(run: Machine, data: bytes) -> Any:
    return run.new(run.types["Tokenizer"], ("contentsOf", "pad"), data, None)


def check_tokenizer(run: Machine, kinds: Any = ("gena", "words fused", "end only")) -> None:
    for kind in kinds:
        reference, port = pair(kind)
        ours = swift_tokenizer(run, reference.to_str().encode())
        for text in TEXTS:
            found = run.call(ours, "encode", (None,), text)
            assert list(found.ids) == reference.encode(text).ids
            assert list(found.starts) == port.encode(text).starts
            assert {type(v) for v in found.ids} <= {Int32} and {type(v) for v in found.starts} <= {Int}
        labels = (None, "length", "overlap")
        windows = run.call(ours, "windows", labels, TEXTS[-1], Int(24), Int(5))
        assert [(list(w.ids), list(w.mask), list(w.starts)) for w in windows] == [
            (w.ids, w.mask, w.starts) for w in port.windows(TEXTS[-1], 24, 5)
        ]


CHECKS: dict[str, Callable[[Machine], None]] = {
    "CTC": check_ctc,
    "FlipFlop": check_flip_flop,
    "CRF": check_crf,
    "Calls": check_calls,
    "Signal": check_signal,
    "Chunks": check_chunks,
    "DNA": check_dna,
    "Tokenizer": check_tokenizer,
}


@pytest.mark.parametrize("name", CHECKS)
def test_swift_gives_what_its_port_and_the_references_give(name: str) -> None:
    CHECKS[name](machine())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("gena", "words fused", "end only")])
def test_every_kind_of_tokenizer(kind: str) -> None:
    check_tokenizer(machine(), (kind,))


# Swift's Int32 and String take these, or hide them; the port refuses them when the package is written.
ONLY_PORT = {"equivalent tokens", "id negative", "endless steps", "id as truth"}


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in ONLY_PORT])
def test_swift_refuses_what_the_port_refuses(name: str) -> None:
    data = coreml_tokenizers.as_json(pair("gena")[0])
    CHANGES[name](data)
    with pytest.raises(Thrown, match="tokenizerRefused"):
        swift_tokenizer(machine(), coreml_tokenizers.as_bytes(data))
    with pytest.raises(RubiccError, match="RUB-COREML-501"):
        Tokenizer(coreml_tokenizers.as_bytes(data))


def test_older_files_and_other_processors_in_swift() -> None:
    data = coreml_tokenizers.as_json(pair("gena")[0])
    data["model"]["merges"] = [" ".join(merge) for merge in data["model"]["merges"]]
    data["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}
    data["padding"] = {"pad_id": 4}
    ours = swift_tokenizer(machine(), coreml_tokenizers.as_bytes(data))
    port = Tokenizer(coreml_tokenizers.as_bytes(data))
    assert ours.pad == port.pad == 4
    assert list(machine().call(ours, "encode", (None,), TEXTS[1]).ids) == port.encode(TEXTS[1]).ids


# Core ML in as many words as the basecaller needs.
CORE_ML = """
struct MLShapedArray {
    let scalars: [Float]
    let shape: [Int]
}
struct CallerNetwork {
    struct Input { let x: MLShapedArray }
    struct Output { let y: MLShapedArray }
    let network: (Input) throws -> Output
    func predict(_ input: Input) async throws -> Output { try network(input) }
}
"""


@pytest.mark.parametrize("batch", [1, 3])
def test_the_emitted_basecaller_reads_signal_to_bases(batch: int, tmp_path: Path) -> None:
    """Normalised, cut, through a network, joined, decoded by the emitted Swift: as the engine's parts do."""
    made = swift_packages.basecaller("taiyaki-mgru", 40, 200, overlap=40)
    assert made.meta is not None
    made = replace(
        made, inputs=(TensorSpec("x", (batch, 1, 200)),), outputs=(TensorSpec("y", (50, batch, 40)),)
    )
    made.write(tmp_path, run=False)
    folder = tmp_path / "Swift/Sources/CallerPackage"
    texts = [p.read_text() for p in sorted(folder.glob("*.swift")) if p.stem != "CallerNetwork"]
    run = Machine([CORE_ML, *(text.replace("import CoreML\n", "") for text in texts)])
    mix = np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32) * 2

    def network(rows: np.ndarray) -> np.ndarray:
        """(rows, 200) -> (50, rows, 40)"""
        return np.einsum("ntk,kc->tnc", rows.reshape(len(rows), 50, 4), mix)

    def predict(given: Any) -> Any:
        assert list(given.x.shape) == [batch, 1, 200]
        scores = network(np.array(given.x.scalars, np.float32).reshape(batch, 200))
        kinds = run.types["MLShapedArray"], run.types["Output"]
        dims = Array(map(Int, scores.shape), Int)
        return run.new(kinds[1], ("y",), run.new(kinds[0], ("scalars", "shape"), floats(scores), dims))

    model = run.new(run.types["CallerNetwork"], ("network",), predict)
    caller = run.new(run.types["Basecaller"], ("model",), model)
    samples = (500 + 90 * np.random.default_rng(1).normal(size=470)).astype(int).tolist()
    labels = ("samples", "offset", "scale", "samplingRate")
    given = Array(map(Int16, samples), Int16), Double(12.0), Double(0.17), Double(4000.0)
    found = run.call(caller, "call", (None,), run.new(run.types["RawRead"], labels, *given))

    signal_spec, plan = made.meta.signal, engine_chunks.Plan(200, 40, 4, 1.0, 1)
    assert signal_spec is not None
    read = Read(
        read_id="r", signal=np.array(samples, np.int16), offset=12.0, scale=0.17, sampling_rate=4000.0
    )
    wave = engine_normalise.normalise(read, signal_spec)
    frames = []
    for window in engine_chunks.windows(len(wave), plan):
        row = np.empty(200, np.float32)
        engine_chunks.fill(row, wave, window)
        frames.append(engine_chunks.kept(network(row[None])[:, 0], window, 4))
    theirs = decode_read(np.concatenate(frames).astype(np.float32), made.meta)
    assert found.sequence == theirs.sequence and len(found.sequence) > 20
    assert list(found.moves) == theirs.moves.tolist()


# Faults in the Swift text that its ports do not have.
MUTANTS = {
    "CTC": ("let begins = best > 0 && best != last", "let begins = best > 0"),
    "CTC tolerance": ("static let tolerance = 0.1", "static let tolerance = -0.1"),
    "FlipFlop": ("e + 36 + b", "e + 32 + b"),
    "FlipFlop start": ("for s in 0..<4 { alpha[s] = 0.25 }", "for s in 0..<4 { alpha[s] = Double(s + 1) }"),
    "CRF": ("m * quarter + j / 4", "m + 4 * (j / 4)"),
    "CRF emitted": ("$0 / 5 % 4", "$0 / 5 / 4"),
    "Calls": (
        "static let neighbours = [0.1, 0.2, 0.4, 0.2, 0.1]",
        "static let neighbours = [0.1, 0.2, 0.4, 0.1, 0.2]",
    ),
    "Calls window": ("/ 2 + 1", "/ 2"),
    "Calls floor": ("static let leastQuality = 1.0", "static let leastQuality = 9.0"),
    "Signal": ("static let deviationScale = 1.4826", "static let deviationScale = 1.4827"),
    "Signal quantile": ("Double(total - 1) * q", "Double(total) * q"),
    "Chunks": ("(2 * plan.stride)", "plan.stride"),
    "DNA": ("TGCAAYRMKVBHDNSW", "TGCAAYRMKVBDHNSW"),
    "Tokenizer": ("if made[found] != made[rank] { continue }", ""),
    "Tokenizer left": ("let left = previous[place]", "let left = place - 1"),
    "Tokenizer unknown": ("if open && fuseUnknown { continue }", ""),
    "Tokenizer overlap": ("from += room - overlap", "from += room"),
    "Tokenizer words": ("letter == 95", "letter == 96"),
    "Tokenizer types": ("rank << 32 | left", "rank << 32 | Int32(left)"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_changed_swift_file_is_found(name: str) -> None:
    file, (before, after) = name.split()[0], MUTANTS[name]
    assert before in source(file)
    changed = {file: source(file).replace(before, after)}
    with pytest.raises(SwiftError if name == "Tokenizer types" else (AssertionError, Thrown)):
        run = Machine(changed.get(part, source(part)) for part in FILES)
        CHECKS[file](run)


WRONG = {
    "declared twice": "var a = 1\nlet a = 2\nreturn a",
    "guard of a local name": "let a: Int? = n\nguard let a = a else { return 1 }\nreturn a",
    "not declared": "return m",
    "constant": "let a = 1\na += 1\nreturn a",
    "parameter": "n += 1\nreturn n",
    "two types": "return n * 1.5 + d",
    "mixed numbers": "var a = d\na = a + Double(n) * f\nreturn n",
    "without try": "return risky(n)",
    "labels": "return other(n)",
    "a number as condition": "if n { return 1 }\nreturn 2",
    "nil": "let a: Int = none()\nreturn a",
    "overflow": "let a: UInt8 = UInt8(n * 1000)\nreturn n",
    "out of bounds": "let a = [1, 2]\nreturn a[n]",
    "slice": "let a = [1, 2, 3, 4]\nlet b = a[1..<3]\nreturn b[0]",
    "backwards": "for i in n..<0 { return i }\nreturn 0",
    "guard falls through": "guard n > 5 else { let a = 1 }\nreturn n",
    "self": "count = 2\nreturn n",
}
PLACE = """
struct S {{
    var count: Int = 0
    func risky(_ n: Int) throws -> Int {{ n }}
    func other(of n: Int) -> Int {{ n }}
    func none() -> Int? {{ nil }}
    func f(_ n: Int, _ d: Double, _ f: Float) -> Int {{
        {}
    }}
}}
"""


@pytest.mark.parametrize("name", WRONG)
def test_the_machine_refuses_what_a_compiler_or_the_device_would(name: str) -> None:
    text = PLACE.format(WRONG[name].replace("\n", "\n        "))
    assert not swift_packages.parse(text.encode()).has_error
    with pytest.raises(SwiftError):
        run = Machine([text])
        made = run.new(run.types["S"])
        run.call(made, "f", (None,) * 3, Int(3), Double(2.0), Float(1.0))


def test_the_machine_knows_precedence_copies_and_division() -> None:
    text = """
    struct S {
        var items: [Int] = []
        static func f(_ n: Int) throws -> Int {
            var a = S(items: [1, 2])
            let b = a
            a.items.append(7)
            a.items[0] += 1
            let c = n > 2 && b.items.count == 2 ? -7 / 2 : -7 % 2
            return a.items[0] + a.items.count << 2 | 1 + c * (a.items == b.items ? 1 : 100)
        }
    }
    """
    run = Machine([text])
    made = run.types["S"]
    assert run.call(made, "f", (None,), Int(3)) == ((2 + (3 << 2)) | 1) + -3 * 100
    assert run.call(made, "f", (None,), Int(1)) == ((2 + (3 << 2)) | 1) + -1 * 100
