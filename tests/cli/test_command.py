"""The real command, run as a user runs it: streams, exit codes, help, signals, pipes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import rubicc
from rubicc.cli.explain import catalogue
from rubicc.cli.main import VERBS, main

RUBICC = [sys.executable, "-m", "rubicc"]
HEAVY = ("torch", "onnx", "onnxruntime", "openvino", "transformers", "numpy", "numba", "pysam", "h5py")


def run(
    *args: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    full = {**os.environ, **(env or {})}
    return subprocess.run([*RUBICC, *args], capture_output=True, text=True, env=full, cwd=cwd, timeout=120)


def document(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    data = json.loads(result.stdout)
    assert data["schema_version"] == 1 and data["ok"] is (result.returncode == 0)
    return data


def test_help_lists_verbs_and_exit_codes_on_stdout() -> None:
    result = run("--help")
    assert result.returncode == 0 and result.stderr == ""
    assert all(f"    {verb}" in result.stdout for verb in VERBS)
    assert all(f"  {code} " in result.stdout for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 130))
    assert run("--version").stdout == f"rubicc {rubicc.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_the_common_flags(verb: str) -> None:
    result = run(verb, "--help")
    assert result.returncode == 0 and result.stderr == ""
    assert all(flag in result.stdout for flag in ("--format", "--log-json", "--quiet", "--verbose"))


def test_no_verb_is_a_stub_of_a_later_issue() -> None:
    for verb in ("profile", "latency", "budget", "search"):
        assert verb not in VERBS and run(verb).returncode == 2


@pytest.mark.parametrize("args", [("--help",), ("targets",), ("models", "list"), ("explain",), ("init",)])
def test_light_verbs_import_nothing_heavy(args: tuple[str, ...]) -> None:
    code = (
        "import sys; from rubicc.cli.main import main; main(sys.argv[1:]);"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60)
    assert result.stderr.splitlines()[-1] == "[]"


def test_no_verb_prints_help_and_is_a_usage_error() -> None:
    result = run()
    assert result.returncode == 2 and result.stdout == "" and "compile" in result.stderr


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (("complie", "x"), "compile"),
        (("compile", "x", "--taret", "cpu"), "--target"),
        (("compile", "x", "--targ", "cpu"), "--target"),
        (("models", "lst"), "list"),
        (("explain", "RUB-CLI-02"), "RUB-CLI-02"),
        (("models", "show", "rubical"), "rubicall"),
        (("passes", "show", "cleanup.fold-constant"), "cleanup.fold-constants"),
        (("compile", "x", "--target", "cpu", "-o", "o", "--set", "presicion=fp16"), "precision"),
    ],
)
def test_did_you_mean(args: tuple[str, ...], near: str) -> None:
    result = run(*args)
    assert result.returncode == 2 and result.stdout == ""
    assert re.search(rf"error\[RUB-\w+-\d+\]: .*did you mean '{re.escape(near)}", result.stderr)
    assert "Traceback" not in result.stderr


def test_errors_are_documents_under_json() -> None:
    result = run("explain", "RUB-NO-1", "--format", "json")
    assert result.returncode == 2
    error = document(result)["error"]
    assert (error["code"], error["exit_code"]) == ("RUB-CLI-014", 2)
    early = run("compile", "--nonsense", "--format=json")
    assert early.returncode == 2 and document(early)["error"]["code"] == "RUB-CLI-001"


def test_explain_knows_every_code_of_every_room() -> None:
    listed = {entry["code"] for entry in document(run("explain", "--format", "json"))["result"]}
    assert listed == set(catalogue()) and {"RUB-CLI-001", "RUB-ART-001", "RUB-MODEL-001"} <= listed
    text = run("explain", "rub-art-001").stdout
    assert text.startswith("RUB-ART-001: ") and "manifest.json" in text


def test_codes_of_these_rooms_are_catalogued_and_used() -> None:
    root = Path(rubicc.__file__).parent
    sources = [*root.glob("*.py"), *(root / "cli").glob("*.py"), *(root / "evidence").glob("*.py")]
    used = {
        code
        for path in sources
        if not path.name.startswith("codes")
        for code in re.findall(r"RUB-(?:CLI|ART)-\d{3}", path.read_text())
    }
    catalogued = {code for code in catalogue() if code.startswith(("RUB-CLI", "RUB-ART"))}
    assert used == catalogued


def test_print_config_shows_origins_and_does_no_work(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\ntarget: cpu\nruntime: openvino\n")
    flags = ["--recipe", "r.yaml", "--precision", "fp16", "--print-config", "--format", "json"]
    result = run("compile", "absent.pt", *flags, env={"RUBICC_SEED": "7"}, cwd=tmp_path)
    shown = document(result)["result"]
    assert shown["precision"] == {"value": "fp16", "origin": "flag"}
    assert shown["seed"] == {"value": 7, "origin": "env RUBICC_SEED"}
    assert shown["runtime"] == {"value": "openvino", "origin": "recipe"}
    assert shown["strict"] == {"value": False, "origin": "default"}
    assert os.listdir(tmp_path) == ["r.yaml"]


def test_misspelt_variable_is_noticed() -> None:
    result = run("compile", "x", "--print-config", env={"RUBICC_PRECISON": "fp16"})
    assert result.returncode == 0 and "did you mean RUBICC_PRECISION" in result.stderr


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("compile", "x", "-o", "o"), "--target"),
        (("compile", "x", "--target", "cpu"), "-o"),
        (("models", "show"), "NAME"),
        (("models", "create", "demo-ctc"), "-o"),
        (("passes", "show"), "ID"),
    ],
)
def test_missing_flags(args: tuple[str, ...], what: str) -> None:
    result = run(*args)
    assert result.returncode == 2 and "RUB-CLI-006" in result.stderr and what in result.stderr


def test_init_writes_once(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    assert run("init", "-o", str(path)).returncode == 0
    assert run("init").stdout == path.read_text()
    path.write_text("mine")
    again = run("init", "-o", str(path))
    assert again.returncode == 8 and "RUB-ART-002" in again.stderr and path.read_text() == "mine"
    assert run("init", "-o", str(path), "--force").returncode == 0 and path.read_text() != "mine"


def test_models_create_is_repeatable_and_careful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    create = ("models", "create", "demo-ctc", "--seed", "3", "-o")
    assert run(*create, "a.pt", cwd=tmp_path).returncode == 0
    monkeypatch.chdir(tmp_path)  # the others need no process of their own: they are as repeatable in this one
    assert main([*create, "b.pt"]) == 0
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    assert main([*create, "a.pt"]) == 8
    capfd.readouterr()
    assert main([*create, "no/a.pt"]) == 2 and "RUB-ART-004" in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt"]


def test_env_is_one_document() -> None:
    value = document(run("env", "--format", "json"))["result"]
    assert value["versions"]["rubicc"] == rubicc.__version__ and value["machine"]["cores"] >= 1
    assert "CPUExecutionProvider" in value["providers"]["onnxruntime"]


def test_passes_show_prints_options() -> None:
    value = document(run("passes", "show", "cleanup.fold-constants", "--format", "json"))["result"]
    assert value["exact"] is True and value["options"]


def test_closed_pipe_is_quiet() -> None:
    command = " ".join([*RUBICC, "explain"]) + " | head -1; exit ${PIPESTATUS[0]}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and result.stderr == ""


def test_text_output_has_no_colour_when_not_a_terminal() -> None:
    assert "\x1b" not in run("explain", "nope").stderr
    assert "\x1b" not in run("models", "list").stdout


def test_hostile_text_reaches_no_terminal_raw() -> None:
    result = run("explain", "\x1b]0;title\x07\u202e")
    assert result.returncode == 2 and "\x1b" not in result.stderr and "\\x1b" in result.stderr


def test_ascii_terminal_is_no_crash() -> None:
    result = run("explain", "nope", env={"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 2 and "Traceback" not in result.stderr


INTERNAL = """
import sys
import rubicc.cli.explain as verb
def broken(args, console): {body}
verb.run = broken
from rubicc.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def run_broken(body: str, *args: str) -> subprocess.CompletedProcess[str]:
    code = INTERNAL.format(body=body)
    return subprocess.run(
        [sys.executable, "-c", code, "explain", *args], capture_output=True, text=True, timeout=60
    )


def test_internal_error_is_1_and_says_how_to_report() -> None:
    result = run_broken("raise ZeroDivisionError('oops')")
    assert result.returncode == 1 and "RUB-CLI-900" in result.stderr and "rubicc env" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run_broken("raise ZeroDivisionError('oops')", "-vv").stderr


@pytest.mark.parametrize(
    ("body", "code", "exit_code"),
    [
        ("raise MemoryError", "RUB-CLI-021", 1),
        ("open('/nonexistent/x')", "RUB-CLI-020", 1),
        ("raise __import__('rubicc.errors').errors.ModelRefused('RUB-X-1', 'w')", "RUB-X-1", 3),
        ("raise __import__('rubicc.errors').errors.Unsupported('RUB-X-1', 'w')", "RUB-X-1", 4),
        ("raise __import__('rubicc.errors').errors.VerificationFailed('RUB-X-1', 'w')", "RUB-X-1", 5),
        ("raise __import__('rubicc.errors').errors.BudgetExceeded('RUB-X-1', 'w')", "RUB-X-1", 6),
        ("raise __import__('rubicc.errors').errors.ToolMissing('RUB-X-1', 'w')", "RUB-X-1", 7),
    ],
)
def test_every_error_class_has_its_exit_code(body: str, code: str, exit_code: int) -> None:
    result = run_broken(body, "--format", "json")
    assert result.returncode == exit_code
    assert document(result)["error"]["code"] == code
    assert f"error[{code}]" in result.stderr


def test_unsupported_prints_the_whole_table() -> None:
    body = (
        "from rubicc.backends.base import Finding; from rubicc.errors import Unsupported;"
        "raise Unsupported('RUB-X-1', 'no', findings=tuple("
        "Finding('RUB-X-%d' % i, 'error', 'n%d' % i, 'm', 'r', 'do') for i in range(3)))"
    )
    result = run_broken(body, "--format", "json")
    assert result.returncode == 4 and all(f"error[RUB-X-{i}] n{i} (m): r" in result.stderr for i in range(3))
    assert len(document(result)["error"]["findings"]) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_130_and_leave_nothing(number: signal.Signals, tmp_path: Path) -> None:
    body = (
        "from rubicc.evidence.staging import StagedDir; import time\n"
        f"    with StagedDir({str(tmp_path / 'out')!r}) as s:\n"
        "        print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", INTERNAL.format(body="\n    " + body), "explain"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "RUB-CLI-022" in errors and "Traceback" not in errors
    assert os.listdir(tmp_path) == []


def test_log_json_lines() -> None:
    result = run_broken(
        "import logging; logging.getLogger('rubicc.x').info('hello'); raise ValueError('x')", "--log-json"
    )
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["info", "error"] and lines[1]["code"] == "RUB-CLI-900"


def test_quiet_silences_everything_but_errors() -> None:
    body = "import logging; logging.getLogger('rubicc').warning('careful'); return 0"
    assert "careful" in run_broken(body).stderr
    assert run_broken(body, "-q").stderr == ""
