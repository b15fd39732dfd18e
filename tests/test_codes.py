"""Codes of errors and decisions: catalogued where raised, used where catalogued, explained with a remedy."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from rubicc.cli.explain import catalogue
from rubicc.cli.main import main
from rubicc.ir.verify import RULES

ROOT = Path(__file__).parents[1] / "rubicc"
CODE = re.compile(r"RUB-[A-Z]+-(?:D\d\d|\d\d\d)(?!\d)")
# Every prefix belongs to one room.
ROOMS = {
    "SPEC": ".",
    "ART": "evidence",
    "CLI": "cli",
    "AIE": "backends/aie",
    "COREML": "backends/coreml",
    "CPU": "backends/cpu_gpu",
    "DRV": "driver",
    "GEN": "genomics",
    "IR": "ir",
    "LOW": "frontend",
    "MODEL": "models",
    "PASS": "passes",
    "READ": "frontend",
    "SHRINK": "shrink",
    "TGT": "backends",
    "TRAIN": "training",
}
# Rooms inside a room, by the first digit of the number: RUB-COREML-1xx and -D1x belong to lowering.
INSIDE = {
    "AIE": {"2": "plan", "3": "kernels", "4": "project", "5": "sim"},
    "COREML": {"1": "lowering", "2": "run", "3": "compress", "4": "lint", "5": "swift"},
}
# What a remedy begins with: a sentence, or a part of one, that tells the reader to do something.
VERBS = (
    "allow|call|cast|change|check|choose|compile|convert|copy|create|declare|expand|export|fetch|"
    "give|inline|install|keep|leave|make|mend|move|pass|prune|put|raise|read|register|remove|"
    "rename|replace|report|rerun|restore|return|run|save|score|take|train|update|upgrade|use|"
    "verify|wait|write"
)
DOING = re.compile(rf"(?:^|[.,:;] )(?:please |or )?(?:{VERBS})\b|`rubicc \w+", re.I)


def room_of(code: str) -> str:
    """Folder whose ``codes.py`` must hold ``code``."""
    _, prefix, number = code.split("-")
    inside = INSIDE.get(prefix, {}).get(number.removeprefix("D")[0], "")
    return f"{ROOMS[prefix]}/{inside}" if inside else ROOMS[prefix]


def strings(path: Path) -> Iterator[str]:
    """Texts of a module that are not documentation; those inside f-strings too."""
    tree = ast.parse(path.read_text("utf-8"))
    lone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in lone:
            yield node.value


def used() -> dict[str, set[str]]:
    """Code -> files that raise or record it."""
    found = defaultdict(set)
    for path in sorted(ROOT.rglob("*.py")):
        if path.name != "codes.py":
            for text in strings(path):
                for code in CODE.findall(text):
                    found[code].add(path.relative_to(ROOT).as_posix())
    return found


def test_every_code_is_catalogued_and_every_entry_used() -> None:
    found, known = used(), catalogue()
    assert not {code: files for code, files in found.items() if code not in known}
    # The list of verbs says `such as RUB-CLI-002`; that mention is not a use.
    only_mentioned = {code for code, files in found.items() if files == {"cli/explain.py"}} - {"RUB-CLI-014"}
    assert not (set(known) - set(found)) | only_mentioned
    assert len(known) > 200


def test_codes_are_written_whole() -> None:
    """A code put together from parts would escape the test above, and every search for it."""
    for path in ROOT.rglob("*.py"):
        for text in strings(path):
            assert not re.search(r"RUB-", CODE.sub("", text)), f"{path.name}: {text}"


def test_no_code_is_defined_twice_and_each_stands_in_its_room() -> None:
    seen: dict[str, str] = {}
    for path in sorted(ROOT.rglob("codes.py")):
        room = path.parent.relative_to(ROOT).as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        keys = [
            key.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Dict)
            for key in node.keys
            if isinstance(key, ast.Constant)
        ]
        assert keys, path
        for code in keys:
            assert CODE.fullmatch(code), code
            assert code not in seen, f"{code} stands in {room} and {seen[code]}"
            assert room_of(code) == room, f"{code} stands in {room}"
            seen[code] = room
    assert set(seen) == set(catalogue()), "the collector of `rubicc explain` misses a file"


@pytest.mark.parametrize("code", catalogue())
def test_every_code_is_explained_with_a_remedy(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    title, text = catalogue()[code]
    assert main(["explain", code.lower()]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown == f"{code}: {title} {' '.join(text.split())}"
    assert title.strip() and not title.endswith(".") and text.endswith(".") and len(text) > 40
    assert "  " not in text and not re.search(r"--[a-z]+- ", text), "parts of the text are joined wrongly"
    decision = re.search(r"-D\d\d$", code)
    assert decision or DOING.search(text), f"{code} does not say what to do: {text}"


def test_rules_of_the_verifier_are_catalogued() -> None:
    assert {rule.id for rule in RULES} <= set(catalogue())
    assert len({rule.id for rule in RULES}) == len(RULES) > 20


def test_an_unknown_code_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "RUB-REED-001"]) == 2
    assert "RUB-READ-001" in capsys.readouterr().err
