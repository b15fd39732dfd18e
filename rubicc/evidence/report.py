"""The typed report of one compilation: ``report.json`` to machines, ``report.html`` to people.

Every figure says how it came about, and what was not measured is listed as such rather than left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rubicc.errors import ModelRefused, UsageError
from rubicc.evidence import manifest as manifests
from rubicc.evidence.decision import Decision
from rubicc.evidence.floor import Floor, decode_floor
from rubicc.evidence.gaps import Gap
from rubicc.spec import strict_fields

SCHEMA_VERSION = 1
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"


@dataclass(frozen=True)
class LayerRow:
    """One node of the compiled graph.

    Attributes:
        name, op, source: node name, operator, PyTorch module path.
        inputs, output: shapes as text, e.g. ``2x344x500``.
        weight_bits, activation_bits: ``None`` where the node has none.
        macs, params: for one run at the report's shapes.
        ms: measured milliseconds per run, ``None`` = not measured.
        gap: error of its output against the source, ``None`` = not compared (say why in ``not_measured``).
    """

    name: str
    op: str
    source: str = ""
    inputs: tuple[str, ...] = ()
    output: str = ""
    weight_bits: int | None = None
    activation_bits: int | None = None
    macs: int = 0
    params: int = 0
    ms: float | None = None
    gap: Gap | None = None


@dataclass(frozen=True)
class PassRow:
    """One pass as it ran; ``op_diff`` maps operator -> change in count."""

    id: str
    changed: bool
    seconds: float
    options: Mapping[str, Any] = field(default_factory=dict)
    op_diff: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Measure:
    """A measured number: ``value unit``, its spread over repetitions, and how it was taken."""

    what: str
    value: float
    unit: str
    how: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class NotMeasured:
    """Something a reader may expect and will not find, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class SignalPicture:
    """A stretch of one read with its calls.

    Attributes:
        signal: normalised samples.
        bases: (sample index relative to ``signal``, base letter) per called base.
        start: position of ``signal[0]`` in the read.
    """

    read_id: str
    signal: tuple[float, ...]
    bases: tuple[tuple[int, str], ...]
    sampling_rate: int
    start: int = 0
    caption: str = ""


@dataclass(frozen=True)
class Outside:
    """Operations that do not run where the target wants them, for one reason.

    Attributes:
        status: a key of :attr:`Placement.statuses`.
        count, op: how many of which operator.
        code: of the rule.
        reason, remedy, source: of the first of them; the source is an address.
    """

    status: str
    count: int
    op: str
    code: str
    reason: str
    remedy: str
    source: str


@dataclass(frozen=True)
class Placement:
    """On which device the operations of the emitted form would run.

    Attributes:
        title, caption: of the section; the caption says what the verdicts rest on.
        statuses: status -> ``good``, ``unsure`` or ``bad``.
        ops: (status, words) of each operation, in the order they run.
        outside: why some are not where they should be.
    """

    title: str
    caption: str
    statuses: Mapping[str, str]
    ops: tuple[tuple[str, str], ...]
    outside: tuple[Outside, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything report.html shows.

    Attributes:
        name, target, precision, runtime: of the artefact.
        verdict: ``verified`` or ``failed`` or ``not verified``, with ``verdict_reason``.
        source: facts of the model read (kind, arch, sha256, parameters ...), in display order.
        totals: facts of the compiled graph (MACs, bytes, receptive field ...), in display order.
        gaps: comparison name -> gap, e.g. ``"y: ONNX Runtime against PyTorch"``.
        shapes: input name -> shape at which layers and gaps were taken.
        placements: where the operations would run; none where the target has one place only.
        floors: arrays of cores with the layers on them; none for targets without.
        machine: facts of the machine that compiled.
    """

    name: str
    target: str
    precision: str
    runtime: str
    verdict: str
    verdict_reason: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    totals: Mapping[str, Any] = field(default_factory=dict)
    gaps: Mapping[str, Gap] = field(default_factory=dict)
    shapes: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[LayerRow, ...] = ()
    passes: tuple[PassRow, ...] = ()
    decisions: tuple[Decision, ...] = ()
    measured: tuple[Measure, ...] = ()
    not_measured: tuple[NotMeasured, ...] = ()
    signal: SignalPicture | None = None
    placements: tuple[Placement, ...] = ()
    floors: tuple[Floor, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; order of layers, facts and gaps is kept."""
        data = asdict(self)
        data["gaps"] = [{"name": name} | g.to_dict() for name, g in self.gaps.items()]
        for row, layer in zip(data["layers"], self.layers, strict=True):
            row["gap"] = layer.gap.to_dict() if layer.gap else None
        for key in ("source", "totals", "shapes", "machine"):
            data[key] = [[name, value] for name, value in getattr(self, key).items()]
        return data

    def to_json(self) -> str:
        """Text of report.json."""
        return manifests.dump_json(self.to_dict())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Strict inverse of :meth:`to_dict`.

        Raises:
            ModelRefused: ``RUB-ART-013``.
        """
        try:
            if data.get("schema_version") != SCHEMA_VERSION:
                raise ValueError(f"schema version {data.get('schema_version')!r}")
            return _decode(data)
        except (TypeError, KeyError, ValueError, AttributeError, UsageError) as err:
            raise ModelRefused("RUB-ART-013", f"report.json has the wrong form: {err}") from err


def write(folder: Path, report: Report) -> None:
    """Write report.json and report.html into an artefact being staged."""
    from rubicc.evidence.page import render

    (folder / REPORT_JSON).write_text(report.to_json(), encoding="utf-8")
    (folder / REPORT_HTML).write_text(render(report), encoding="utf-8")


def read(folder: str | Path) -> Report:
    """The typed report of an artefact.

    Raises:
        ModelRefused: ``RUB-ART-010`` no such file or not JSON, ``RUB-ART-013`` wrong form.
    """
    return Report.from_dict(manifests.read_json(Path(folder), REPORT_JSON))


def _decode(data: Mapping[str, Any]) -> Report:
    values = strict_fields(Report, data, "report")
    for key in ("source", "totals", "shapes", "machine"):
        values[key] = dict(values[key])
    values["gaps"] = {
        g["name"]: Gap.from_dict({k: v for k, v in g.items() if k != "name"}) for g in values["gaps"]
    }
    values["layers"] = tuple(
        LayerRow(
            **row | {"inputs": tuple(row["inputs"]), "gap": Gap.from_dict(row["gap"]) if row["gap"] else None}
        )
        for row in values["layers"]
    )
    values["passes"] = tuple(PassRow(**row) for row in values["passes"])
    values["decisions"] = tuple(Decision(**row) for row in values["decisions"])
    values["measured"] = tuple(Measure(**row) for row in values["measured"])
    values["not_measured"] = tuple(NotMeasured(**row) for row in values["not_measured"])
    if values["signal"] is not None:
        picture = dict(values["signal"])
        picture["signal"] = tuple(picture["signal"])
        picture["bases"] = tuple((int(at), str(base)) for at, base in picture["bases"])
        values["signal"] = SignalPicture(**picture)
    values["placements"] = tuple(decode_placement(row) for row in values.get("placements", ()))
    values["floors"] = tuple(decode_floor(row) for row in values.get("floors", ()))
    return Report(**values)


def decode_placement(data: Mapping[str, Any]) -> Placement:
    """A placement from plain values.

    Raises:
        UsageError, TypeError, KeyError, ValueError: wrong form.
    """
    given = strict_fields(Placement, data, "placement")
    return Placement(
        **given
        | {
            "ops": tuple((str(status), str(words)) for status, words in given["ops"]),
            "outside": tuple(Outside(**row) for row in given["outside"]),
        }
    )
