"""From the last line of an emulated program to rubicc's error."""

from __future__ import annotations

from typing import NoReturn

from rubicc.errors import VerificationFailed

_MARK = "RUBICC-EMULATION"
# What the runtime may report; anything else on such a line is not believed.
CODES_OF_THE_RUNTIME = (
    "RUB-AIE-503",
    "RUB-AIE-504",
    "RUB-AIE-505",
    "RUB-AIE-506",
    "RUB-AIE-507",
    "RUB-AIE-508",
    "RUB-AIE-509",
    "RUB-AIE-510",
    "RUB-AIE-511",
    "RUB-AIE-512",
    "RUB-AIE-514",
)


def raise_failure(code: int, stderr: bytes, what: str) -> NoReturn:
    """Raise what an emulated program said before it ended.

    Args:
        code: its exit status.
        stderr: what it wrote there.
        what: the program in words.

    Raises:
        VerificationFailed: always; RUB-AIE-513 where the program said nothing.
    """
    for line in stderr.decode(errors="replace").splitlines():
        parts = line.split("\t")
        if len(parts) == 4 and parts[0] == _MARK and parts[1] in CODES_OF_THE_RUNTIME:
            raise VerificationFailed(parts[1], parts[3], where=parts[2])
    tail = stderr.decode(errors="replace").strip()[-200:]
    said = f": {tail}" if tail else ""
    raise VerificationFailed("RUB-AIE-513", f"{what} ended with status {code}{said}")
