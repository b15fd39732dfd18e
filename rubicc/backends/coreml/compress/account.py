"""What was stored otherwise than the graph says, as one Decision per kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from rubicc.backends.coreml.compress.write import Stored
from rubicc.evidence.decision import Decision


def decisions(records: Iterable[object]) -> tuple[Decision, ...]:
    """Decisions about compressed weights; other records are passed over.

    Codes: ``RUB-COREML-D30`` wider than the graph's bits, ``-D31`` scales rounded, ``-D32``
    stored as floats.
    """
    stored = [record for record in records if isinstance(record, Stored)]
    wider: dict[tuple[int, str], list[Stored]] = defaultdict(list)
    floats: dict[str, list[Stored]] = defaultdict(list)
    rounded = []
    for one in stored:
        if one.form == "plain":
            if one.cause:
                floats[one.cause].append(one)
            continue
        if 0 < one.bits < one.width:
            wider[one.bits, one.stored].append(one)
        if one.rounding > 0:
            rounded.append(one)
    made = [_wider(bits, text, group) for (bits, text), group in sorted(wider.items())]
    made += [_rounded(rounded)] if rounded else []
    made += [_floats(cause, group) for cause, group in sorted(floats.items())]
    return tuple(made)


def _wider(bits: int, text: str, group: Sequence[Stored]) -> Decision:
    least, taken = sum(one.least for one in group), sum(one.nbytes for one in group)
    return Decision(
        "RUB-COREML-D30",
        _where(group),
        f"{_weights(group)} of {bits} bits stored as {text}: {taken} bytes instead of {least} "
        f"({taken / max(1, least):.2f}x)",
        "the target has no form for that width and granularity; the codes are the graph's",
    )


def _rounded(group: Sequence[Stored]) -> Decision:
    worst = max(group, key=lambda one: one.rounding)
    return Decision(
        "RUB-COREML-D31",
        _where([worst, *(one for one in group if one is not worst)]),
        f"scales of {_weights(group)} rounded to fp16, by at most {worst.rounding:.2g} each",
        "a program in fp16 holds no others; the integer codes are the graph's",
    )


def _floats(cause: str, group: Sequence[Stored]) -> Decision:
    least, taken = sum(one.least for one in group), sum(one.nbytes for one in group)
    return Decision(
        "RUB-COREML-D32",
        _where(group),
        f"{_weights(group)} stored as floats: {taken} bytes instead of {least}, rounded by at most "
        f"{max(one.rounding for one in group):.2g} of the largest weight",
        f"{cause}, and Core ML has no form for that",
    )


def _weights(group: Sequence[Stored]) -> str:
    return "1 weight" if len(group) == 1 else f"{len(group)} weights"


def _where(group: Sequence[Stored]) -> str:
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    return f"{group[0].initializer}{more}"
