"""Settings: precedence with origins, strict keys, and YAML that tries things."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rubicc.cli.init import RECIPE
from rubicc.errors import UsageError
from rubicc.quantities import Budget, MaxGap, format_tensor, parse_input, parse_tensor
from rubicc.recipe import parse_yaml_mapping, read_yaml_mapping
from rubicc.settings import ENV_KEYS, KEYS, RECIPE_KEYS, Settings, env_name, resolve
from rubicc.spec import TensorSpec

NO_ENV: dict[str, str] = {}
RECIPE_ALL = {"version": 1, "precision": "bf16", "seed": 1, "runtime": "openvino"}


def test_each_layer_beats_the_one_below() -> None:
    env = {"RUBICC_PRECISION": "int8", "RUBICC_SEED": "2"}
    found = resolve({"precision": "fp16"}, recipe=RECIPE_ALL, env=env)
    assert (found.precision, found.seed, found.runtime, found.strict) == ("fp16", 2, "openvino", False)
    rows = {key: origin for key, _, origin in found.describe()}
    assert rows["precision"] == "flag" and rows["seed"] == "env RUBICC_SEED"
    assert rows["runtime"] == "recipe" and rows["strict"] == "default"


def test_groups_merge_entry_by_entry() -> None:
    found = resolve(
        {"budget": ["size=2MiB"], "inputs": ["y=3:i64"]},
        sets=["passes.cleanup.fold-constants.max_bytes=8", "max_gap.snr=40"],
        recipe={
            "version": 1,
            "budget": {"latency": "5ms", "size": "1MiB"},
            "inputs": {"x": "Nx1xT:f32", "y": "2"},
            "passes": {"cleanup.fold-constants": {"max_bytes": 4, "other": 1}},
        },
        env={"RUBICC_MAX_GAP": "snr=20dB,max_abs=1e-4"},
    )
    assert found.budget == Budget(latency=0.005, size=2 * 2**20)
    assert found.max_gap == MaxGap(snr=40.0, max_abs=1e-4)
    assert found.inputs == (TensorSpec("x", ("N", 1, "T")), TensorSpec("y", (3,), "int64"))
    assert found.passes == {"cleanup.fold-constants": {"max_bytes": 8, "other": 1}}
    assert found.origins["budget.size"] == "flag" and found.origins["budget.latency"] == "recipe"


def test_every_key_can_be_set_by_flag_and_every_env_key_by_env() -> None:
    values: dict[str, Any] = {
        "target": "gpu:cuda", "inputs": ["x=N"], "arch": "a", "arch_config": {"k": 1}, "precision": "fp16",
        "runtime": "openvino", "threads": "2", "calib": "c.npz", "reference": "r.npz", "max_gap": ["snr=1"],
        "budget": ["size=1B"], "passes": {"p": {"o": 1}}, "seed": "4", "strict": True, "check": True,
        "dump_stages": True, "from_stage": "03", "until_stage": "x", "allow_code": True, "trust": True,
        "dry_run": True, "force": True, "layout": "plain", "batch": "8", "streams": "2", "tune": "500ms",
        "objective": "latency", "cache": "0", "shapes": "range",
        "device_facts": ["rows=2"],
    }  # fmt: skip
    assert set(values) == set(KEYS)
    found, default = resolve(values, env=NO_ENV), Settings()
    assert all(getattr(found, key) != getattr(default, key) for key in KEYS)
    env = {
        env_name(k): v if isinstance(v, str) else v[0] if isinstance(v, list) else "1"
        for k, v in values.items()
    }
    by_env = resolve(env=env)
    assert all(getattr(by_env, key) == getattr(found, key) for key in ENV_KEYS)
    rest = set(KEYS) - set(ENV_KEYS)
    assert all(getattr(by_env, key) == getattr(default, key) for key in rest)
    assert (found.backend, found.device) == ("gpu", "cuda")


def test_resolved_recipe_gives_the_same_settings_and_the_same_text(tmp_path: Path) -> None:
    found = resolve(
        {
            "target": "cpu",
            "calib": str(tmp_path / "far" / "c.npz"),
            "inputs": ["ids=N,max_len:i64"],
            "trust": True,
        },
        sets=["passes.a.b.c=[1, 2]", "budget.latency=0.1ms", "max_gap.max_abs=3e-7"],
        recipe={"version": 1, "arch_config": {"z": 1, "a": {"b": [1, None]}}},
        env=NO_ENV,
    )
    text = found.to_recipe()
    assert str(tmp_path) not in text and "trust" not in text
    (tmp_path / "r.yaml").write_text(text)
    again = resolve(recipe=tmp_path / "r.yaml", env=NO_ENV)
    assert again.to_recipe() == text
    assert again.calib == tmp_path / "c.npz" and again.budget == found.budget and again.inputs == found.inputs
    assert again.max_gap == found.max_gap and again.passes == found.passes


def test_recipe_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\ncalib: data/c.npz\n")
    assert resolve(recipe=tmp_path / "r.yaml", env=NO_ENV).calib == tmp_path / "data" / "c.npz"


def test_init_recipe_is_valid_and_names_every_key() -> None:
    assert resolve(recipe=parse_yaml_mapping(RECIPE, "r"), env=NO_ENV).to_recipe() == Settings().to_recipe()
    uncommented = "\n".join(line.removeprefix("# ") if ":" in line else "" for line in RECIPE.splitlines())
    stage_keys = {"from_stage", "until_stage"}  # they concern one debugging run
    assert all(f"{key}:" in uncommented for key in set(RECIPE_KEYS) - stage_keys)


@pytest.mark.parametrize(
    ("flags", "sets", "recipe", "code", "hint"),
    [
        ({}, [], {"version": 1, "presicion": "fp16"}, "RUB-CLI-002", "precision"),
        ({}, ["presicion=fp16"], None, "RUB-CLI-002", "precision"),
        ({}, ["budget.siz=1B"], None, "RUB-CLI-002", "size"),
        ({"budget": ["latncy=1s"]}, [], None, "RUB-CLI-002", "latency"),
        ({"precision": "fp61"}, [], None, "RUB-CLI-004", ""),
        ({"budget": ["latency=5"]}, [], None, "RUB-CLI-004", "unit"),
        ({"budget": ["size=-1MiB"]}, [], None, "RUB-CLI-004", ""),
        ({"budget": ["size"]}, [], None, "RUB-CLI-004", ""),
        ({"device_facts": ["rows=-1"]}, [], None, "RUB-CLI-004", "positive"),
        ({"device_facts": ["rows=2kB"]}, [], None, "RUB-CLI-004", "positive"),
        ({"budget": ["size=1B", "size=2B"]}, [], None, "RUB-CLI-005", ""),
        ({"precision": "fp16"}, ["precision=fp32"], None, "RUB-CLI-005", ""),
        ({"max_gap": ["snr=nan"]}, [], None, "RUB-CLI-004", ""),
        ({"max_gap": ["snr=1e999"]}, [], None, "RUB-CLI-004", ""),
        ({"max_gap": ["identity=101"]}, [], None, "RUB-CLI-004", ""),
        ({"inputs": ["x"]}, [], None, "RUB-CLI-003", "NAME=SHAPE"),
        ({"inputs": ["x=0x3"]}, [], None, "RUB-CLI-003", ""),
        ({"inputs": ["x=99999999999999999999"]}, [], None, "RUB-CLI-003", ""),
        ({"inputs": ["x=3:f99"]}, [], None, "RUB-CLI-003", "f16"),
        ({"seed": "-1"}, [], None, "RUB-CLI-004", ""),
        ({"seed": "1.5"}, [], None, "RUB-CLI-004", ""),
        ({"threads": 0}, [], None, "RUB-CLI-004", ""),
        ({}, ["passes.quantize=4"], None, "RUB-CLI-004", ""),
        ({}, ["strict"], None, "RUB-CLI-004", "KEY=VALUE"),
        ({}, ["seed.x=1"], None, "RUB-CLI-004", ""),
        ({}, ["trust=true"], None, "RUB-CLI-013", ""),
        ({}, [], {"version": 1, "allow_code": True}, "RUB-CLI-013", "flag"),
        ({}, [], {"version": 1, "trust": True}, "RUB-CLI-013", "flag"),
        ({}, [], {"precision": "fp16"}, "RUB-CLI-012", "version: 1"),
        ({}, [], {"version": 2}, "RUB-CLI-012", ""),
        ({}, [], {"version": 1, "budget": 5}, "RUB-CLI-004", ""),
        ({}, [], {"version": 1, "passes": {"p": 3}}, "RUB-CLI-004", ""),
        ({}, [], {"version": 1, "strict": "maybe"}, "RUB-CLI-004", ""),
        ({}, [], {"version": 1, "target": ["cpu"]}, "RUB-CLI-004", ""),
        ({}, [], {"version": 1, "calib": 3}, "RUB-CLI-004", ""),
    ],
)
def test_refusals(flags: dict[str, Any], sets: list[str], recipe: Any, code: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve(flags, sets=sets, recipe=recipe, env=NO_ENV)
    assert error.value.code == code and error.value.exit_code == 2 and hint in str(error.value)


HOSTILE_YAML = {
    "alias bomb": "a: &a [1,2]\nb: [*a, *a]\n",
    "python object": "a: !!python/object/apply:os.system ['touch pwned']\n",
    "local tag": "a: !include /etc/passwd\n",
    "binary tag": "a: !!binary aGk=\n",
    "duplicate key": "a: 1\na: 2\n",
    "mapping as key": "{[1]: 2}\n",
    "deep nesting": "[" * 5000 + "]" * 5000,
    "deep block": "".join(" " * i + "a:\n" for i in range(40)),
    "not closed": "a: [1, 2\n",
    "list": "- 1\n",
    "scalar": "hello\n",
    "two documents": "a: 1\n---\nb: 2\n",
    "control character": "a: \x07\n",
    "huge integer": "a: " + "9" * 10000,
    "many values": "a: [" + "1," * 30000 + "]",
    "merge key": "a: {<<: {b: 1}, <<: {c: 2}}\n",
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_hostile_yaml_is_refused_in_its_own_words(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "r.yaml"
    path.write_text(HOSTILE_YAML[name])
    with pytest.raises(UsageError) as error:
        read_yaml_mapping(path, "recipe")
    assert error.value.code == "RUB-CLI-011" and "recipe" in error.value.what
    assert os.listdir(tmp_path) == ["r.yaml"]


def test_recipe_files_that_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").write_text("#" * 300_000)
    (tmp_path / "latin").write_bytes(b"a: \xff\n")
    for name, code in [("absent", "010"), ("", "010"), ("pipe", "010"), ("big", "011"), ("latin", "011")]:
        with pytest.raises(UsageError) as error:
            read_yaml_mapping(tmp_path / name, "recipe")
        assert error.value.code == f"RUB-CLI-{code}"


def test_dates_stay_text_and_empty_files_are_empty() -> None:
    assert parse_yaml_mapping("a: 2020-01-02\n", "r") == {"a": "2020-01-02"}
    assert parse_yaml_mapping("", "r") == {} and parse_yaml_mapping("# only\n", "r") == {}


@pytest.mark.parametrize("text", ["x=Nx1xT:f32", "x=N,max_len:i64", "x=scalar:f64", "x=4"])
def test_input_specs_round_trip(text: str) -> None:
    spec = parse_input(text)
    assert parse_tensor("x", format_tensor(spec)) == spec
