"""What one run found, as plain values: rows, ratios, targets and their verdicts. Imports no runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from rubicc.evidence.measure import SMALLEST_DIFFERENCE, Timing

Verdict = Literal["PASS", "FAIL", "UNSURE", "not measured"]
Way = Literal["at least", "at most"]
SCHEMA_VERSION = 1
BUSY = 0.05  # share of the processors that other programs may take

COLUMNS = {
    "torch": "torch eager",
    "compile": "torch.compile",
    "ort32": "ORT fp32",
    "ort8": "ORT int8",
    "ov32": "OV held to f32",
    "ov": "OV default",
    "ov8": "OV int8",
    "ours32": "ours fp32",
    "best": "ours best",
}
DEFAULTS_FP32 = ("compile", "ort32", "ov32")


@dataclass(frozen=True)
class Row:
    """One engine on one network, or the reason why there is none.

    Attributes:
        column: key of ``COLUMNS``.
        precision: ``fp32``, ``bf16`` or ``int8``: the peak it is held to.
        detail: what exactly ran (file, runtime, layout, streams).
        timing: seconds of every call; ``None`` with ``refused``.
        snr_db, agreement: against torch eager in float32: signal to noise of all outputs, share of equal
            argmaxes; ``None`` where not comparable.
        load_seconds: building it, first call included.
    """

    column: str
    precision: str = ""
    detail: str = ""
    timing: Timing | None = None
    snr_db: float | None = None
    agreement: float | None = None
    load_seconds: float = 0.0
    refused: str = ""


@dataclass(frozen=True)
class PeakRow:
    """A dense kernel timed in the same turns."""

    name: str
    precision: str
    macs: int
    timing: Timing

    @property
    def rate(self) -> float:
        """Multiply-accumulates per second, of the median."""
        return self.macs / self.timing.median


@dataclass(frozen=True)
class NetworkResult:
    """One network: everything in it was timed in one process, in turns.

    Attributes:
        shape: of one call, for people.
        positions: samples or tokens (``unit``) of one call.
        macs: multiply-accumulates of one call.
        others: further artefacts of ours that ``best`` was chosen from.
        disturbed: share of the processor time that other programs took meanwhile.
    """

    name: str
    shape: str
    unit: str
    positions: int
    macs: int
    rows: tuple[Row, ...]
    peaks: tuple[PeakRow, ...] = ()
    others: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    disturbed: float = 0.0

    def row(self, column: str) -> Row | None:
        """The measured row of a column."""
        return next((row for row in self.rows if row.column == column and row.timing is not None), None)

    def peak(self, precision: str) -> PeakRow | None:
        """The fastest dense kernel of a precision."""
        found = [peak for peak in self.peaks if peak.precision == precision]
        return max(found, key=lambda peak: peak.rate, default=None)


@dataclass(frozen=True)
class Identity:
    """Calls of two artefacts of one network against the true sequences.

    Attributes:
        reads: what was called.
        fp32, best: matches over alignment columns, over all reads together.
        detail: what ``best`` is.
        missing: reads without an alignment under ``best``.
        skipped: why there is no figure.
    """

    network: str
    reads: str
    fp32: float = 0.0
    best: float = 0.0
    detail: str = ""
    missing: int = 0
    skipped: str = ""

    @property
    def lost(self) -> float:
        """Identity lost by the best precision; negative = gained."""
        return self.fp32 - self.best


@dataclass(frozen=True)
class Judged:
    """A target, what was measured, and whether that reaches it."""

    what: str
    way: Way
    limit: float
    value: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Span:
    """A ratio of two medians, and of their opposite quartiles."""

    low: float
    middle: float
    high: float


def ratio(ours: Timing, other: Timing) -> Span:
    """How many times faster ``ours`` is than ``other``."""
    return Span(
        other.percentile(25) / ours.percentile(75),
        other.median / ours.median,
        other.percentile(75) / ours.percentile(25),
    )


def fraction(row: Row, macs: int, peak: PeakRow) -> Span:
    """Share of the peak that a network's multiply-accumulates reach."""
    assert row.timing is not None
    times = ratio(row.timing, peak.timing)
    scale = macs / peak.macs
    return Span(times.low * scale, times.middle * scale, times.high * scale)


def judge(span: Span | None, limit: float, disturbed: float = 0.0) -> Verdict:
    """Whether a measured ratio reaches ``limit``.

    UNSURE where the ratio is within 5 % of it; where the middle halves of both timings allow both answers;
    and on a busy machine, which slows some engines more than others: threads that meet 800 times a call lose
    thirtyfold when one of them must wait for its core, as seen with torch's LSTM.
    """
    if span is None:
        return "not measured"
    if disturbed > BUSY:
        return "UNSURE"
    near = abs(span.middle / limit - 1) < SMALLEST_DIFFERENCE
    if near or span.low < limit <= span.high:
        return "UNSURE"
    return "PASS" if span.middle >= limit else "FAIL"


# (network, our column, the others' columns of which the fastest counts, least ratio)
RATIOS: tuple[tuple[str, str, tuple[str, ...], float], ...] = (
    ("rubicall-fp", "best", ("torch",), 12.0),
    ("rubicall-fp", "best", ("ort32",), 6.0),
    ("rubicall-fp", "best", ("ort8",), 8.0),
    ("rubicall-fp", "best", ("ov8",), 1.4),
    ("rubicall-fp", "ours32", DEFAULTS_FP32, 1.7),
    ("bonito-ctc", "best", ("torch",), 10.0),
    ("taiyaki-mgru", "best", ("torch",), 5.0),
    ("bonito-crf-fast", "best", ("torch",), 2.5),
    ("bonito-crf-hac", "best", ("torch",), 2.5),
    ("dna-bert", "best", ("torch",), 3.0),
)
INT8_FRACTION = 0.55
IDENTITY_LOSS = 0.003


def targets(networks: Sequence[NetworkResult], identities: Sequence[Identity]) -> list[Judged]:
    """Every target of the project on this machine, judged."""
    by_name = {network.name: network for network in networks}
    judged = [_ratio_target(by_name.get(name), name, *rest) for name, *rest in RATIOS]  # type: ignore[arg-type]
    judged.insert(4, _peak_target(by_name.get("rubicall-fp")))
    return judged + [_identity_target(identity) for identity in identities]


def _ratio_target(
    network: NetworkResult | None, name: str, column: str, others: tuple[str, ...], limit: float
) -> Judged:
    names = " or ".join(COLUMNS[other] for other in others)
    what = f"{name}: {COLUMNS[column]} over {names}{', the fastest' if len(others) > 1 else ''}"
    span = None
    if network is not None and (ours := network.row(column)) is not None:
        found = [row.timing for other in others if (row := network.row(other)) and row.timing]
        fastest = min(found, key=lambda timing: timing.median, default=None)
        if fastest is not None and ours.timing is not None:
            span = ratio(ours.timing, fastest)
    return Judged(what, "at least", limit, span.middle if span else None, judge(span, limit, _noise(network)))


def _noise(network: NetworkResult | None) -> float:
    return network.disturbed if network is not None else 0.0


def _peak_target(network: NetworkResult | None) -> Judged:
    what = "rubicall-fp: ours best, share of the measured int8 convolution peak"
    row, peak = (network.row("best"), network.peak("int8")) if network is not None else (None, None)
    span = fraction(row, network.macs, peak) if network and row and peak else None
    return Judged(
        what,
        "at least",
        INT8_FRACTION,
        span.middle if span else None,
        judge(span, INT8_FRACTION, _noise(network)),
    )


def _identity_target(identity: Identity) -> Judged:
    what = f"{identity.network}: identity lost to fp32 on {identity.reads}"
    if identity.skipped:
        return Judged(what, "at most", IDENTITY_LOSS, None, "not measured")
    # Calls are deterministic: no noise to be unsure about.
    reached = identity.lost <= IDENTITY_LOSS and not identity.missing
    return Judged(what, "at most", IDENTITY_LOSS, identity.lost, "PASS" if reached else "FAIL")


def choose_best(rows: Sequence[Row]) -> Row | None:
    """The fastest of our artefacts, relabelled as the column ``best``; every one of them held its gate."""
    measured = [row for row in rows if row.timing is not None]
    fastest = min(measured, key=lambda row: row.timing.median if row.timing else 0.0, default=None)
    return replace(fastest, column="best") if fastest is not None else None


def to_json(
    machine: Mapping[str, Any], networks: Sequence[NetworkResult], identities: Sequence[Identity]
) -> dict[str, Any]:
    """Everything measured, every call's time included."""
    return {
        "schema_version": SCHEMA_VERSION,
        "machine": dict(machine),
        "networks": [asdict(network) for network in networks],
        "identities": [asdict(identity) for identity in identities],
    }


def from_json(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[NetworkResult], list[Identity]]:
    """Inverse of :func:`to_json`."""
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"schema_version {data.get('schema_version')!r}, this program reads {SCHEMA_VERSION}"
        )
    networks = [network_from_json(item) for item in data["networks"]]
    return dict(data["machine"]), networks, [Identity(**item) for item in data["identities"]]


def network_from_json(item: Mapping[str, Any]) -> NetworkResult:
    """One entry of ``networks``."""
    rows, others = (tuple(_row(row) for row in item[key]) for key in ("rows", "others"))
    peaks = tuple(PeakRow(**{**peak, "timing": _timing(peak["timing"])}) for peak in item["peaks"])
    return NetworkResult(
        **{**item, "rows": rows, "others": others, "peaks": peaks, "notes": tuple(item["notes"])}
    )


def _row(item: Mapping[str, Any]) -> Row:
    return Row(**{**item, "timing": _timing(item["timing"]) if item["timing"] else None})


def _timing(item: Mapping[str, Any]) -> Timing:
    return Timing(tuple(item["seconds"]))
