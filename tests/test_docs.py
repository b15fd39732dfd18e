"""What the pages say is so: their commands and code run, and what they name exists.

Blocks marked ``sh`` and ``python`` are run in order, page by page, in a folder that holds ``model.pt`` (a
checkpoint), ``out`` (its artefact) and ``reads.npz``. A block without a language is an illustration; of it,
as of commands within a sentence, only verbs and flags are checked.
"""

from __future__ import annotations

import argparse
import functools
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from rubicc.cli.explain import catalogue
from rubicc.cli.main import VERBS, build_parser, main

ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "ARCHITECTURE.md",
    *(str(p.relative_to(ROOT)) for p in sorted(ROOT.glob("docs/**/*.md"))),
]
# Pages that need more than the folder described above.
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/adding_a_backend.md": "tests/backends/test_target_registry.py",
    "docs/writing_a_pass.md": "tests/passes/test_pass_docs.py",
}
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.M | re.S)
FLAG = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-o)\b")


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, body) of every fenced block."""
    return FENCE.findall(text)


def run(language: str, body: str, names: dict[str, object], page: str) -> None:
    """One block; raises when it fails."""
    if language == "python":
        exec(compile(body, page, "exec"), names)
    elif language == "sh":
        for line in body.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                command(words, line)


def command(words: list[str], line: str) -> None:
    if words[0] == "rubicc":
        code = main([*measured_briefly(words[1:]), "-q"])
    else:
        assert words[0] == "python", f"only rubicc and python are run: {line}"
        code = subprocess.run([sys.executable, *words[1:]], stdout=subprocess.DEVNULL, timeout=120).returncode
    assert code == 0, f"exit code {code}: {line}"


def measured_briefly(words: list[str]) -> list[str]:
    """The command with less time for its measurements: how long they take says nothing of the page."""
    pairs = zip(["", *words], words, strict=False)
    return ["0.2" if flag in ("--seconds", "--tune") else word for flag, word in pairs]


@functools.cache
def flags(verb: str) -> frozenset[str]:
    """Every flag of a verb."""
    (verbs,) = (a for a in build_parser(verb)._actions if isinstance(a, argparse._SubParsersAction))
    return frozenset(verbs.choices[verb].flags())


def illustrated(text: str) -> list[str]:
    """Commands in sentences and in blocks without a language."""
    bare = "\n".join(body for language, body in blocks(text) if not language)
    lines = [line.partition("#")[0] for line in bare.splitlines() if line.startswith("rubicc ")]
    return [*lines, *re.findall(r"`(rubicc [^`\n]+)`", FENCE.sub("", text))]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rubicc.genomics.simulate import simulate_reads, write_reads

    home = tmp_path_factory.mktemp("docs")
    shutil.copy(ROOT / "rubicc" / "data" / "demo_ctc.pt", home / "model.pt")
    write_reads(home / "reads.npz", simulate_reads(2, seed=5, length=300))
    words = ["compile", str(home / "model.pt"), "--target", "cpu", "--runtime", "onnxruntime", "-q"]
    assert main([*words, "-o", str(home / "out")]) == 0
    return home


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_commands_and_code_run(
    page: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    todo = [(language, body) for language, body in blocks(read(page)) if language]
    if not todo:
        assert not re.search(r"^```\w", read(page), re.M)
        return
    home = tmp_path / "home"
    shutil.copytree(prepared, home)
    monkeypatch.chdir(home)
    names: dict[str, object] = {"__name__": "page"}
    for language, body in todo:
        run(language, body, names, page)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    text = read(page)
    assert text.count("\n```") == 2 * len(blocks(text)), "a block is not closed"
    assert {language for language, _ in blocks(text)} <= {"", "sh", "python", "toml"}
    if page in ELSEWHERE:
        assert Path(page).name in (ROOT / ELSEWHERE[page]).read_text("utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_commands_named_exist(page: str) -> None:
    text = read(page)
    for line in illustrated(text):
        verb = line.split()[1]
        if verb in VERBS:
            assert set(FLAG.findall(line)) <= flags(verb), line
        else:
            assert verb.startswith("--") or verb == "VERB", line
    # A flag on its own belongs to some verb, or to the script named on the page.
    known = {"--version"}.union(*map(flags, VERBS))
    for flag in {
        found for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)) for found in FLAG.findall(code)
    }:
        scripts = re.findall(r"python -m (rubicc[\w.]+)", text)
        theirs = "".join(Path(str(import_module(name).__file__)).read_text("utf-8") for name in scripts)
        assert flag in known or f'"{flag}"' in theirs, flag


@pytest.mark.parametrize("page", PAGES)
def test_links_files_names_and_codes_exist(page: str) -> None:
    text, prose = read(page), FENCE.sub("", read(page))
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target), link
    for path in re.findall(r"`([a-z_]+/[\w./-]*\w)`", prose) + re.findall(
        r"python (benchmarks/\w+\.py)", text
    ):
        if "." in Path(path).name and path.split("/")[0] not in ("cpu_gpu", "stages", "verify", "reads"):
            assert (ROOT / path).exists() or (ROOT / "rubicc" / path).exists(), path
    for name in set(re.findall(r"`(rubicc(?:\.[a-zA-Z_]\w*)+)[`(]", prose)) - ENTRY_POINTS:
        assert resolves(name), name
    for code in re.findall(r"RUB-[A-Z]+-D?\d+", prose):
        assert code in catalogue(), code


ENTRY_POINTS = {"rubicc.backends", "rubicc.models", "rubicc.passes"}


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    module, parts = import_module("rubicc"), name.split(".")[1:]
    found: object = module
    for part in parts:
        if not hasattr(found, part):
            try:
                found = import_module(f"{found.__name__}.{part}")  # type: ignore[attr-defined]
                continue
            except (ImportError, AttributeError):
                return False
        found = getattr(found, part)
    return True


def test_every_page_can_be_found_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", read("README.md"))}
    assert set(PAGES) - {"README.md"} <= linked


@pytest.mark.parametrize(
    ("language", "body"),
    [
        ("sh", "rubicc models lst"),
        ("sh", "rubicc \\\n  explain RUB-XXX-001"),
        ("sh", "python -c 'raise SystemExit(1)'"),
        ("sh", "rm -r ."),
        ("python", "assert False"),
    ],
)
def test_a_wrong_block_fails(language: str, body: str) -> None:
    with pytest.raises(AssertionError):
        run(language, body, {}, "page")
    assert (
        not resolves("rubicc.compiled") and resolves("rubicc.ir.graph.Graph") and resolves("rubicc.compile")
    )
    assert measured_briefly(["bench", "--seconds", "1", "-o", "x"]) == [
        "bench",
        "--seconds",
        "0.2",
        "-o",
        "x",
    ]
    assert illustrated("`rubicc env`\n```\nrubicc demo  # x\n```\n```sh\nrubicc init\n```\n") == [
        "rubicc demo  ",
        "rubicc env",
    ]
