"""Writes the artefact's files; equal graph and plan give equal bytes."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from rubicc.backends.base import EmitResult
from rubicc.backends.cpu_gpu.check import quantisers
from rubicc.backends.cpu_gpu.description import MODEL_FILE, CpuGpuPlan, as_text, description, model_bytes
from rubicc.errors import Unsupported
from rubicc.ir.graph import Graph, source_of

_TEMPLATES = files("rubicc.backends.cpu_gpu.templates")


def emit(graph: Graph, plan: CpuGpuPlan, folder: Path) -> EmitResult:
    """Write the four files into ``folder`` (created if need be; staging is the caller's).

    Raises:
        Unsupported: quantisers were not expanded (RUB-CPU-003).
    """
    left = quantisers(graph)
    if left:
        raise Unsupported(
            "RUB-CPU-003",
            f"{len(left)} quantisers are still in the graph",
            where=source_of(left[0]),
            hint="run the backend's prepare before emit",
        )
    model = model_bytes(graph)
    data = description(graph, plan, model)
    content = {
        MODEL_FILE: model,
        "runtime.json": as_text(data).encode(),
        "run.py": _TEMPLATES.joinpath("run.py").read_bytes(),
        "README.md": _readme(data).encode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in content.items():
        (folder / name).write_bytes(body)
    sizes = {name: len(body) for name, body in sorted(content.items())}
    return EmitResult(folder, tuple(sorted(content)), {"bytes": sizes})


def _readme(data: dict[str, Any]) -> str:
    meta = data["meta"] or {}
    signal = meta.get("signal") or {}
    decoder = meta.get("decoder") or {}
    facts = {
        "Architecture": meta.get("arch"),
        "Task": meta.get("task"),
        "Signal normalisation": signal.get("normalisation"),
        "Stride (samples per frame)": meta.get("stride"),
        "Alphabet": meta.get("alphabet"),
        "Decoder": decoder.get("kind"),
        "Chunk and overlap (samples)": f"{meta['chunk']}, {meta.get('overlap')}"
        if meta.get("chunk")
        else None,
    }
    values = {
        "runtime": data["runtime"],
        "runtimes": ", ".join(data["runtimes"]),
        "precision": data["precision"],
        "target": data["target"],
        "tool": data["tool"],
        "facts": "\n".join(f"| {key} | {_md(value)} |" for key, value in facts.items() if value is not None),
        "tensors": "\n".join(
            f"| {kind} | " + " | ".join(map(_md, (spec["name"], spec["dtype"], _shape(spec["shape"])))) + " |"
            for kind, key in (("input", "inputs"), ("output", "outputs"))
            for spec in data[key]
        ),
    }
    template = Template(_TEMPLATES.joinpath("README.md.tmpl").read_text(encoding="utf-8"))
    return template.substitute(
        {key: value if key in ("facts", "tensors") else _md(value) for key, value in values.items()}
    )


def _shape(dims: list[int | str]) -> str:
    return " x ".join(map(str, dims))


def _md(value: object) -> str:
    """Text that cannot leave its table cell or become markup: names come from model files."""
    text = "".join(c if c.isprintable() else "?" for c in str(value))[:200]
    return text.translate({ord(char): f"&#{ord(char)};" for char in "\\`*_{}[]()<>#|!&~"})
