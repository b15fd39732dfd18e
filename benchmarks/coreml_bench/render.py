"""Tables and verdicts of the Core ML benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from coreml_bench.cases import NETWORKS, Network
from coreml_bench.identity import LOSS, Identity
from coreml_bench.work import MIB, Compilation
from rubicc.driver.proof import NOISE_MARGIN_DB

FP32_GOAL = 90.0
HEAD = (
    "network", "target", "package MiB", "compile s", "CPU s", "peak MiB", "fp32: max abs", "fp32: SNR dB",
    "fp16: max abs", "fp16: SNR dB", "operations", "on ANE, not, unknown", "goal",
)  # fmt: skip


def table(found: Sequence[Compilation]) -> str:
    """One row per network and target; size, seconds and memory are those of the fp16 package."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    by_place: dict[tuple[str, str], dict[str, Compilation]] = {}
    for one in found:
        by_place.setdefault((one.name, one.target), {})[one.precision] = one
    for (name, target), pair in by_place.items():
        rows.append(_row(NETWORKS[name], target, pair))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(network: Network, target: str, pair: Mapping[str, Compilation]) -> tuple[str, ...]:
    half, full = pair.get("fp16"), pair.get("fp32")
    cells = [network.name, target.partition(":")[2]]
    if half is None or half.error:
        cells += [half.error if half is not None else "not measured", "", "", ""]
    else:
        cells += [f"{half.package / MIB:.1f}", f"{half.seconds:.1f}", f"{half.busy:.0f}", f"{half.peak:.0f}"]
    cells += [*_accuracy(full), *_accuracy(half)]
    counts = half.counts if half is not None else {}
    cells += [
        str(counts.get("all", "")),
        ", ".join(str(counts[k]) for k in ("eligible", "not", "unknown") if counts),
    ]
    return (*cells, ", ".join(verdicts(network, pair)) or "-")


def _accuracy(one: Compilation | None) -> list[str]:
    """Max abs and SNR of the interpreter in the package's own precision."""
    if one is None or one.error or "mil" not in one.snr:
        return ["", one.error if one is not None else ""]
    noise = f" (own noise {one.noise:.1f})" if math.isfinite(one.noise) else ""
    return [f"{one.max_abs['mil']:.2g}", f"{one.snr['mil']:.1f}{noise}"]


def verdicts(network: Network, pair: Mapping[str, Compilation]) -> list[str]:
    """``PASS`` or ``FAIL`` for each precision that was measured."""
    goals = {"fp32": FP32_GOAL, "fp16": network.goal}
    found = []
    for precision, goal in goals.items():
        if (one := pair.get(precision)) is not None:
            met = not one.error and one.snr.get("mil", -math.inf) >= _goal(one, goal)
            found.append(f"{precision} {'PASS' if met else 'FAIL'}")
    return found


def _goal(one: Compilation, goal: float) -> float:
    """A quantised network cannot be nearer to its source than the source is to itself."""
    return min(goal, one.noise - NOISE_MARGIN_DB)


def identity_table(found: Sequence[Identity]) -> str:
    """Identity of each set of calls and its loss against the first."""
    rows = ["| calls | identity | lost | reads unmapped | goal |", "|---|---|---|---|---|"]
    first = found[0]
    for one in found:
        if one.skipped:
            rows.append(f"| {one.what} | not measured: {one.skipped} | | | |")
            continue
        lost = first.value - one.value
        goal = "-" if one is first or first.skipped else "PASS" if kept(first, one) else "FAIL"
        rows.append(f"| {one.what} | {one.value:.5f} | {lost:+.5f} | {one.unmapped} | {goal} |")
    return "\n".join(rows)


def kept(first: Identity, one: Identity) -> bool:
    """Whether no more identity is lost than allowed; a skipped one has failed."""
    return not one.skipped and abs(first.value - one.value) <= LOSS
