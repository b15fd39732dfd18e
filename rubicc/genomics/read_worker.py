"""The child process that parses read files; see :mod:`rubicc.genomics.isolation` for the protocol."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import IO, Any

from rubicc.genomics.isolation import HEADER, send
from rubicc.genomics.reads import Limits, Read, read_file


def main() -> int:
    """Serve files until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limits = Limits(**json.loads(sys.argv[1]))
    # Not RLIMIT_AS: pod5 maps whole files, which may be larger than any sane limit on memory.
    _lower(resource.RLIMIT_DATA, limits.memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)
    # The C libraries may print; what they print must not enter the protocol.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    try:
        while (request := _receive(questions)) is not None:
            _serve(request, questions, answers, limits)
    except BrokenPipeError:
        return 0
    return 0


def _lower(what: int, limit: int) -> None:
    hard = resource.getrlimit(what)[1]
    bound = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(what, (bound, bound))


def _receive(file: IO[bytes]) -> dict[str, Any] | None:
    head = file.read(HEADER.size)
    return json.loads(file.read(HEADER.unpack(head)[0])) if len(head) == HEADER.size else None


def _serve(request: dict[str, Any], questions: IO[bytes], answers: IO[bytes], limits: Limits) -> None:
    def wanted(read_id: str) -> bool:
        send(answers, {"read_id": read_id})
        answer = _receive(questions)
        if answer is None:
            raise SystemExit(0)
        return bool(answer["want"])

    for item in read_file(Path(request["path"]), request["kind"], wanted, limits):
        if isinstance(item, Read):
            facts = {key: value for key, value in vars(item).items() if key != "signal"}
            send(answers, {"read": facts, "bytes": item.signal.nbytes}, item.signal.data.cast("B"))
        else:
            send(answers, {"problem": [item.path, item.read_id, item.code, item.reason]})
    send(answers, {"end": True})


if __name__ == "__main__":
    sys.exit(main())
