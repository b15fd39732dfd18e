"""Recipes and other YAML a stranger wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from trials import COMPILE, Bench, Commands, Trial

FORM = frozenset({"RUB-CLI-011"})
KEY = frozenset({"RUB-CLI-002"})
VALUE = frozenset({"RUB-CLI-004"})
SAFETY = frozenset({"RUB-CLI-013"})
HEAD = "version: 1\ntarget: cpu\n"


def _live(bench: Bench) -> None:
    import yaml

    text = (bench.input / "r.yaml").read_text()
    yaml.load(text, Loader=yaml.UnsafeLoader)


def _laughs() -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(rows) + "\n"


TEXTS: dict[str, tuple[str | bytes, frozenset[str]]] = {
    "python-object": (HEAD + "seed: !!python/object/apply:os.mkdir [MARKER]\n", FORM),
    "python-name": (HEAD + "seed: !!python/name:os.system\n", FORM),
    "own-tag": (HEAD + "seed: !include /etc/passwd\n", FORM),
    "billion-laughs": (HEAD + _laughs(), FORM),
    "self-reference": (HEAD + "passes: &a {x: *a}\n", FORM),
    "merge-key": (HEAD + "passes: {<<: {seed: 1}}\n", FORM | VALUE),
    "deep": (HEAD + "passes: " + "[" * 5000 + "\n", FORM),
    "deep-blocks": (HEAD + "".join("  " * i + "a:\n" for i in range(200)), FORM | KEY),
    "many-values": (HEAD + "passes: [" + "1," * 50_000 + "1]\n", FORM),
    "huge": (HEAD + "#" * (1 << 20), FORM),
    "not-utf8": (b"version: 1\ntarget: \xff\xfe\n", FORM),
    "nul": (b'version: 1\ntarget: "a\0b"\n', FORM),
    "tabs": ("version: 1\n\ttarget: cpu\n", FORM),
    "two-documents": (HEAD + "---\nversion: 1\n", FORM),
    "a-list": ("- version: 1\n", FORM),
    "a-text": ("hello\n", FORM),
    "duplicate-key": (HEAD + "target: gpu\n", FORM),
    "key-is-a-list": (HEAD + "? [a, b]\n: 1\n", FORM),
    "endless-number": (HEAD + "seed: " + "9" * 9000 + "\n", FORM | VALUE),
    "base-60": (HEAD + "seed: 190:20:30:15:59\n", VALUE),
    "no-version": ("target: cpu\n", frozenset({"RUB-CLI-012"})),
    "version-99": ("version: 99\n", frozenset({"RUB-CLI-012"})),
    "empty": ("", frozenset({"RUB-CLI-012"})),
    "misspelt-key": (HEAD + "presicion: fp16\n", KEY),
    "allow-code": (HEAD + "allow_code: true\n", SAFETY),
    "trust": (HEAD + "trust: true\n", SAFETY),
    "force": (HEAD + "force: true\n", SAFETY),
    "precision-is-a-list": (HEAD + "precision: [fp16]\n", VALUE),
    "seed-nan": (HEAD + "seed: .nan\n", VALUE),
    "seed-is-a-mapping": (HEAD + "seed: {a: 1}\n", VALUE),
    "strict-is-a-text": (HEAD + "strict: perhaps\n", VALUE),
    "budget-without-unit": (HEAD + "budget: {size: 5}\n", VALUE),
    "budget-unknown": (HEAD + "budget: {sise: 5B}\n", KEY),
    "max-gap-is-text": (HEAD + "max_gap: {snr: loud}\n", VALUE),
    "input-nonsense": (HEAD + 'inputs: {x: "Nx?xT"}\n', frozenset({"RUB-CLI-003"})),
    "passes-not-a-mapping": (HEAD + "passes: {cleanup.fold-constants: 3}\n", VALUE),
    "unknown-pass": (HEAD + "passes: {os.system: {x: 1}}\n", frozenset({"RUB-PASS-001"})),
    "unknown-pass-option": (
        HEAD + "passes: {cleanup.fold-constants: {__class__: 1}}\n",
        frozenset({"RUB-PASS-003"}),
    ),
    "control-characters": ("version: 1\n" + 'target: "\\e]0;owned\\a"\n', frozenset({"RUB-TGT-001"})),
}


def trials() -> Iterator[Trial]:
    """As ``--recipe``, and the worst of them as ``--arch-config`` and ``--set``."""
    for name, (text, codes) in TEXTS.items():
        live = _live if name == "python-object" else None
        yield Trial(f"recipe/{name}", _recipe(text), 2, codes, live)
    for name, make in (("pipe", os.mkfifo), ("folder", os.mkdir), ("missing", lambda path: None)):
        yield Trial(f"recipe/{name}", _special(make, "--recipe"), 2, frozenset({"RUB-CLI-010"}))
        yield Trial(
            f"recipe/arch-config-{name}", _special(make, "--arch-config"), 2, frozenset({"RUB-CLI-010"})
        )
    yield Trial("recipe/endless-device", _zero, 2, frozenset({"RUB-CLI-010"}))
    for name in ("python-object", "billion-laughs", "deep"):
        yield Trial(f"recipe/arch-config-{name}", _arch_config(TEXTS[name][0]), 2, FORM)
    yield Trial("recipe/set-python-object", _set, 2, FORM)


def _fill(bench: Bench, text: str | bytes) -> None:
    raw = text.encode() if isinstance(text, str) else text
    (bench.input / "r.yaml").write_bytes(raw.replace(b"MARKER", str(bench.marker).encode()))


def _recipe(text: str | bytes) -> Callable[[Bench], Commands]:
    def make(bench: Bench) -> Commands:
        _fill(bench, text)
        return _lines(bench, "--recipe", "input/r.yaml")

    return make


def _lines(bench: Bench, *flags: str) -> Commands:
    """The target comes from the recipe where it is one."""
    target = () if flags[0] == "--recipe" else ("--target", "cpu")
    return (
        ("compile", bench.onnx, *target, "--runtime", "onnxruntime", *flags, "-o", "out"),
        ("check", bench.onnx, *target, *flags),
        ("basecall", bench.onnx, str(bench.good), *flags, "-o", "calls.fasta"),
    )


def _special(make_it: Callable[[str], None], flag: str) -> Callable[[Bench], Commands]:
    def make(bench: Bench) -> Commands:
        make_it(str(bench.input / "r.yaml"))
        return _lines(bench, flag, "input/r.yaml")

    return make


def _zero(bench: Bench) -> Commands:
    return _lines(bench, "--recipe", "/dev/zero")


def _arch_config(text: str | bytes) -> Callable[[Bench], Commands]:
    def make(bench: Bench) -> Commands:
        _fill(bench, text)
        return _lines(bench, "--arch-config", "input/r.yaml")

    return make


def _set(bench: Bench) -> Commands:
    return (
        ("compile", bench.onnx, *COMPILE, "--set", f"seed=!!python/object/apply:os.mkdir [{bench.marker}]"),
    )
