"""Recipes of chains: every flag of a verb is an option of its step, and bad ones are refused."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from rubicc.cli.chain_recipe import MODELS, PATHS, parser_of, read_chain
from rubicc.cli.init import CHAIN
from rubicc.cli.main import main
from rubicc.shrink.chain import VERBS

TOP = "version: 1\nmodel: model.pt\n"
HOSTILE: dict[str, tuple[str, str, str]] = {
    "no version": ("model: model.pt\nsteps: [skipclip]\n", "RUB-CLI-012", "version: 1"),
    "no model": ("version: 1\nsteps: [skipclip]\n", "RUB-SHRINK-090", "model"),
    "no such model": (TOP.replace("model.pt", "modle.pt") + "steps: [skipclip]\n", "RUB-READ-001", "modle"),
    "no steps": (TOP, "RUB-SHRINK-090", "steps"),
    "an empty list": (TOP + "steps: []\n", "RUB-SHRINK-090", "no steps"),
    "steps are a mapping": (TOP + "steps: {prune: {}}\n", "RUB-SHRINK-090", "list"),
    "an unknown key": (TOP + "date: x\nsteps: [skipclip]\n", "RUB-SHRINK-090", "'data'"),
    "an unknown verb": (TOP + "steps: [purne: {}]\n", "RUB-SHRINK-090", "did you mean 'prune'"),
    "a verb that makes no model": (TOP + "steps: [bench]\n", "RUB-SHRINK-090", "bench"),
    "an unknown option": (TOP + "steps: [skipclip, prune: {ration: 1}]\n", "RUB-SHRINK-090", "'ratio'"),
    "an option of another verb": (TOP + "steps: [skipclip: {ratio: 50%}]\n", "RUB-SHRINK-090", "ratio"),
    "an unknown flag of the training": (
        TOP + "training: {stepz: 4}\nsteps: [skipclip]\n", "RUB-SHRINK-090", "training · did you mean 'steps'"
    ),
    "training is a list": (TOP + "training: [4]\nsteps: [skipclip]\n", "RUB-SHRINK-090", "training"),
    "options beside the verb": (TOP + "steps:\n- prune:\n  macs: 50%\n", "RUB-SHRINK-090", "indent"),
    "options are a list": (TOP + "steps: [prune: [macs]]\n", "RUB-SHRINK-090", "step 1 (prune)"),
    "training without data": (TOP + "steps: [skipclip, train]\n", "RUB-CLI-006", "step 2 (train)"),
    "compile is not the last": (
        TOP + "steps: [compile: {target: cpu}, prune: {ratio: 0.5}]\n", "RUB-SHRINK-090", "put compile last"
    ),
    "two artefacts": (
        TOP + "steps: [compile: {target: cpu}, compile: {target: cpu, name: b}]\n", "RUB-SHRINK-090", "last"
    ),
    "compile without a target": (TOP + "steps: [compile]\n", "RUB-CLI-006", "--target"),
    "a name that leads out": (TOP + "steps: [skipclip: {name: ../../x}]\n", "RUB-SHRINK-090", "folder"),
    "a name with a line break": (TOP + 'steps: [skipclip: {name: "a\\nb"}]\n', "RUB-SHRINK-090", "folder"),
    "an endless name": (TOP + f"steps: [skipclip: {{name: {'a' * 300}}}]\n", "RUB-SHRINK-090", "48"),
    "an empty name": (TOP + 'steps: [skipclip: {name: ""}]\n', "RUB-SHRINK-090", "folder"),
    "one name twice": (
        TOP + "steps: [skipclip: {name: a}, prune: {name: a, ratio: 0.5}]\n", "RUB-SHRINK-090", "'a'"
    ),
    "where to write": (TOP + "steps: [skipclip: {output: x}]\n", "RUB-SHRINK-090", "output"),
    "allowing code": (TOP + "steps: [skipclip: {allow_code: true}]\n", "RUB-CLI-013", "flag of this run"),
    "trust": (TOP + "trust: true\nsteps: [skipclip]\n", "RUB-CLI-013", "trust"),
    "force": (TOP + "steps: [prune: {force: true, ratio: 0.5}]\n", "RUB-CLI-013", "force"),
    "code as the model": ("version: 1\nmodel: python:os:getcwd\nsteps: [skipclip]\n", "RUB-READ", "code"),
    "another model in the middle": (TOP + "steps: [skipclip: {arch: demo-ctc}]\n", "RUB-SHRINK-090", "arch"),
    "not a number": (TOP + "steps: [prune: {ratio: much}]\n", "RUB-SHRINK-031", "step 1 (prune)"),
    "a number that cannot be": (TOP + "steps: [quantize: {bits: 99}]\n", "RUB-SHRINK-070", "quantize"),
    "a word that cannot be": (TOP + "steps: [prune: {ratio: 1, scope: globl}]\n", "RUB-CLI-001", "'global'"),
    "neither true nor false": (TOP + "steps: [prune: {inside: 3, ratio: 1}]\n", "RUB-SHRINK-090", "inside"),
    "true for a number": (TOP + "steps: [prune: {ratio: true}]\n", "RUB-SHRINK-090", "ratio"),
    "a mapping for a number": (TOP + "steps: [prune: {ratio: {a: 1}}]\n", "RUB-SHRINK-090", "ratio"),
    "a list for a number": (TOP + "steps: [prune: {ratio: [1, 2]}]\n", "RUB-SHRINK-090", "one value"),
    "an empty list of data": (TOP + "data: []\nsteps: [skipclip]\n", "RUB-SHRINK-090", "data"),
    "no such data": (TOP + "steps: [skipclip: {data: chunkz}]\n", "RUB-SHRINK-090", "step 1 (skipclip)"),
    "data with a NUL": (TOP + 'steps: [skipclip: {data: "a\\0b"}]\n', "RUB-", "data"),
    "one option in two spellings": (
        TOP + "steps: [prune: {weight-bytes: 1, weight_bytes: 2}]\n", "RUB-SHRINK-090", "twice"
    ),
    "no such teacher": (
        TOP + "data: chunks\nsteps: [skipclip, train: {teacher: x.pt}]\n", "RUB-READ-001", "step 2-train"
    ),
    "an alias": (TOP + "training: &a {steps: 4}\nsteps: [train: *a]\n", "RUB-CLI-011", "alias"),
    "a tag": (TOP + "steps: [!!python/name:os.system x]\n", "RUB-CLI-011", "tag"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_recipe_that_cannot_be_used(
    name: str, chained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, code, words = HOSTILE[name]
    recipe = chained / f"bad-{re.sub(r'[^a-z]', '', name)}.yaml"
    recipe.write_text(text)
    status = main(["chain", str(recipe), "-o", str(tmp_path / "out"), "-q"])
    recipe.unlink()
    said = capsys.readouterr().err
    assert status in (2, 3) and code in said and words in said, said
    assert not code.startswith(("RUB-SHRINK", "RUB-CLI")) or recipe.name in said, said
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    assert main(["chain", str(tmp_path / "x.yaml"), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert main(["chain", str(tmp_path / "x.yaml"), "-q"]) == 2


def test_every_flag_of_a_verb_is_an_option_of_its_step() -> None:
    for verb in VERBS:
        parser, flags = parser_of(verb)
        assert "name" not in parser.options(), "a step's name"
        missing = set(parser.options()) - set(flags)
        assert not {name for name in missing if "arch" not in name} - {
            *("help", "input", "output", "force", "list", "allow-code", "trust"),
            *("print-config", "dry-run", "from-stage", "until-stage"),
        }
        assert not missing - {"teacher-arch"} & {"data", "steps", "teacher-arch"}
        for name, flag in flags.items():
            words = f"{flag.metavar} {flag.help}"
            about_files = re.search(r"\b(file|folder|FILE|PATH)\b", words) and "teacher" not in name
            assert not about_files or flag.metavar in PATHS, f"{verb} --{name}: paths are relative to recipes"
            assert (flag.metavar in MODELS) == (name == "teacher"), name
            kinds = (argparse._StoreAction, argparse._AppendAction)
            assert flag.nargs == 0 or isinstance(flag, kinds), f"{verb} --{name}: chain_recipe must learn it"


def test_values_of_every_form(chained: Path) -> None:
    (chained / "layers.txt").write_text("a 0.5\n")
    text = f"""{TOP}arch_config: config.yaml
data: [chunks]
training: {{augment: off, bf16: true, feature: [a=b], lr: 1e-4}}
steps:
  - prune: {{share: {{'gru.*': 75%, b: 0.5}}, skip: x, inside: true, norms: false,
             layers: layers.txt, name: 5}}
  - prune: {{sparsity: 0.5, pattern: 2:4, data: null}}
  - train: {{validation: [chunks, simulated], teacher: demo-ctc}}
  - train: {{teacher: 'python:a.b:c', settings: settings.yaml}}
  - compile: {{target: cpu, max_gap: {{snr: 30dB}}, set: {{passes.cleanup.fold-constants.max_bytes: 1024}}}}
"""
    (chained / "forms.yaml").write_text(text)
    (chained / "settings.yaml").write_text("steps: 7\n")
    (chained / "config.yaml").write_text("size: 8\n")
    found = read_chain(chained / "forms.yaml", ["--threads=1", "--allow-code"])
    assert found.reading.arch_config == {"size": 8} and found.model == str(chained / "model.pt")
    assert found.folders == ("1-5", "2-prune", "3-train", "4-train-2", "5-compile")
    cut, zero, first, second, built = found.steps
    channels = cut.settings.channels
    assert channels.shares == {"gru.*": 0.75, "b": 0.5} and channels.skip == ("x",)
    assert channels.inside and not channels.norms and cut.settings.weights.layers == {"a": 0.5}
    assert zero.settings.weights.pattern == "2:4" and zero.given["data"] == ()
    assert first.given["data"] == (str(chained / "chunks"),) and first.settings.lr == 1e-4
    assert first.settings.bf16 and first.settings.features == (("a", "b"),)
    assert first.settings.augment.stretch == 0 and first.given["teacher"] == "demo-ctc"
    assert first.given["validation"] == (str(chained / "chunks"), "simulated")
    assert second.settings.steps == 7 and second.settings.lr == 2e-3, "the file stands for what is shared"
    assert second.given["teacher"] == "python:a.b:c" and second.reading.allow_code
    assert built.settings.max_gap.snr == 30 and built.settings.threads == 1
    assert built.settings.passes["cleanup.fold-constants"] == {"max_bytes": 1024}


def test_init_writes_a_recipe_whose_every_key_is_known(
    chained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--chain", "-q"]) == 0 and capsys.readouterr().out == CHAIN
    for name in ("model.pt", "chunks"):
        (tmp_path / name).symlink_to(chained / name)
    (tmp_path / "first.yaml").write_text(CHAIN)
    assert read_chain(tmp_path / "first.yaml").folders == FOLDERS_OF_INIT
    # Every option in a comment, chained one.
    text = re.sub(r"# (?=[a-z_]+: |- [a-z]+: \{)", "", CHAIN).replace("bits: 8", "")
    text = re.sub(r"^ *(arch|arch_config|input|teacher_arch|validation): .*\n", "", text, flags=re.M)
    (tmp_path / "second.yaml").write_text(text)
    steps = read_chain(tmp_path / "second.yaml").steps
    assert len(steps) == 5 and steps[1].settings.channels.shares == {"gru.*": 0.75}


FOLDERS_OF_INIT = ("1-skipclip", "2-half", "3-quantize", "4-compile")
