"""Trials that must fail: each breaks one promise, to show that the judge of the table would see it."""

from __future__ import annotations

from collections.abc import Callable

from trials import COMPILE, Bench, Commands, Trial

# name -> (module that ``python:`` imports under --allow-code, what the judge must say)
MODULES: dict[str, tuple[str, str]] = {
    "executes": ("import os\nos.mkdir('executed')\nmake = 3\n", "THE PAYLOAD RAN"),
    "leaves-a-file": ("open('left.txt', 'w')\nmake = 3\n", "left or changed cwd/left.txt"),
    "leaves-a-temporary": (
        "import os, tempfile\nos.close(tempfile.mkstemp()[0])\nmake = 3\n",
        "left or changed tmp/",
    ),
    "changes-the-canary": (
        "open('canary.txt', 'a').write('x')\nmake = 3\n",
        "left or changed cwd/canary.txt",
    ),
    "tells-the-canary": ("print(open('canary.txt').read())\nmake = 3\n", "canary's content"),
    "connects": (
        "import socket\nsocket.socket().connect_ex(('127.0.0.1', 9))\nmake = 3\n",
        "reached out: socket.connect",
    ),
    "starts-a-program": (
        "import subprocess\nsubprocess.run(['true'])\nmake = 3\n",
        "reached out: subprocess",
    ),
    "interrupts": ("raise KeyboardInterrupt\n", "exit 130, not 2"),
    "prints-a-traceback": (
        "import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()\nmake = 3\n",
        "a traceback",
    ),
    "takes-memory": ("x = b'x' * (1700 << 20)\nmake = 3\n", "MB"),
    "colours": ("import sys\nsys.stderr.write('\\x1b[2J')\nmake = 3\n", "control characters"),
}


def trials() -> tuple[Trial, ...]:
    """One per promise, and two whose expectation is wrong."""

    def module(text: str) -> Callable[[Bench], Commands]:
        def make(bench: Bench) -> Commands:
            (bench.input / "control_module.py").write_text(text)
            return (("compile", "python:control_module:make", "--allow-code", *COMPILE),)

        return make

    refused = frozenset({"RUB-READ-071"})
    broken = [Trial(f"control/{name}", module(text), 2, refused) for name, (text, _) in MODULES.items()]
    sound = module("make = 3\n")
    return (
        *broken,
        Trial("control/other-exit", sound, 3, refused),
        Trial("control/other-code", sound, 2, frozenset({"RUB-READ-070"})),
        Trial("control/sound", sound, 2, refused),
    )


WANTED = {f"control/{name}": text for name, (_, text) in MODULES.items()} | {
    "control/other-exit": "exit 2, not 3",
    "control/other-code": "not RUB-READ-070",
}
