"""Doctored exported programs. ``live`` shows that ``torch.export.load`` itself would run the payload."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hostile_base import HARMLESS, Case, Payload

Change = Callable[[dict[str, bytes], Path], None]
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLES = "data/sample_inputs/model.pt"
_cache: dict[str, bytes] = {}


class Net(torch.nn.Module):
    """Linear layer and a constant, dynamic batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)
        self.shift = torch.arange(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.gelu(self.linear(x)) + self.shift


def good_entries() -> dict[str, bytes]:
    """Entries of a clean program, by name without the root folder."""
    if not _cache:
        batch = {0: torch.export.Dim("N", min=2, max=64)}
        program = torch.export.export(Net().eval(), (torch.randn(2, 4),), dynamic_shapes=(batch,))
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        with zipfile.ZipFile(buffer) as archive:
            for name in archive.namelist():
                _cache[name.partition("/")[2]] = archive.read(name)
    return dict(_cache)


def doctored(*changes: Change) -> Callable[[Path, Path], Path]:
    """A maker of the clean program with ``changes`` applied."""

    def make(folder: Path, marker: Path) -> Path:
        entries = good_entries()
        for change in changes:
            change(entries, marker)
        path = folder / "m.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name if name.startswith("..") else f"m/{name}", content)
        return path

    return make


def edit(entry: str, change: Callable[[Any, Path], None]) -> Change:
    """Change the JSON of ``entry`` in place."""

    def apply(entries: dict[str, bytes], marker: Path) -> None:
        value = json.loads(entries[entry])
        change(value, marker)
        entries[entry] = json.dumps(value).encode()

    return apply


def add(name: str, content: Callable[[Path], bytes] | bytes = b"x") -> Change:
    """Add or replace an entry."""
    return lambda entries, marker: entries.__setitem__(
        name, content if isinstance(content, bytes) else content(marker)
    )


def drop(name: str) -> Change:
    return lambda entries, marker: entries.__delitem__(name)


def saved(marker: Path) -> bytes:
    """A torch archive whose unpickling runs the payload."""
    buffer = io.BytesIO()
    torch.save(Payload(marker), buffer)
    return buffer.getvalue()


def code(marker: Path) -> str:
    """Python text that runs the payload when evaluated."""
    return f"__import__('os').mkdir({str(marker)!r})"


def load_and_use(path: Path) -> None:
    """What an unsuspecting user does."""
    program = torch.export.load(path)
    program.module()(torch.randn(3, 4))


def _graph(value: dict[str, Any]) -> dict[str, Any]:
    return value["graph_module"]["graph"]


def _pickled_row(value: dict[str, Any], name: str) -> None:
    row = next(iter(value["config"].values()))
    row["use_pickle"] = True
    if name:
        row["path_name"] = name


def _pickled_weight(marker_entry: str, table: str) -> tuple[Change, Change]:
    return edit(table, lambda v, m: _pickled_row(v, "")), add(marker_entry, saved)


def _object(prefix: str) -> tuple[Change, Change]:
    name = f"{prefix}_0"
    return edit(CONSTANTS, lambda v, m: _pickled_row(v, name)), add(
        f"data/constants/{name}", lambda m: pickle.dumps(Payload(m))
    )


def _expression(value: dict[str, Any], marker: Path) -> None:
    _graph(value)["tensor_values"]["x"]["sizes"][0] = {"as_expr": {"expr_str": code(marker), "hint": None}}


def _tower(value: dict[str, Any], marker: Path) -> None:
    text = "Pow(Integer(9), Integer(9))"
    for _ in range(6):
        text = f"Pow({text}, Integer(8))"
    _graph(value)["tensor_values"]["x"]["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}


def _call(value: dict[str, Any], target: str, text: str) -> None:
    """Put a node that calls ``target(text)`` in front."""
    argument = {"name": "", "arg": {"as_string": text}, "kind": 1}
    node = {
        "target": target,
        "inputs": [argument],
        "outputs": [{"as_none": True}],
        "metadata": {},
        "name": "extra",
    }
    _graph(value)["nodes"].insert(0, node)


def _rename_input(value: dict[str, Any], new: str) -> None:
    """Rename the input ``x`` everywhere to ``new``, which becomes generated source."""
    text = json.dumps(value)
    text = text.replace(json.dumps({"name": "x"}), json.dumps({"name": new}))
    value.clear()
    value.update(json.loads(text))
    tensors = _graph(value)["tensor_values"]
    tensors[new] = tensors.pop("x")


def _tree(value: dict[str, Any], kind: str, context: Any) -> None:
    leaf = {"type": None, "context": None, "children_spec": []}
    inner = {"type": kind, "context": context, "children_spec": [leaf]}
    kwargs = {"type": "builtins.dict", "context": "[]", "children_spec": []}
    args = {"type": "builtins.tuple", "context": "null", "children_spec": [inner]}
    root = {"type": "builtins.tuple", "context": "null", "children_spec": [args, kwargs]}
    signature = value["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = json.dumps([1, root])


def _module_tree(kind: str) -> Change:
    """A tree description that imports the module ``payload_module`` beside the file."""

    def apply(entries: dict[str, bytes], marker: Path) -> None:
        value = json.loads(entries[MODEL])
        if kind == "enum":
            _tree(
                value,
                "builtins.dict",
                json.dumps([{"__enum__": True, "fqn": "payload_module:A", "name": "B"}]),
            )
        else:
            context = {
                "default_factory_module": "payload_module",
                "default_factory_name": "A",
                "dict_context": ["a"],
            }
            _tree(value, "collections.defaultdict", context)
        entries[MODEL] = json.dumps(value).encode()

    return apply


def _with_module(make: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    def both(folder: Path, marker: Path) -> Path:
        (folder / "payload_module.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass A: B = 1\n")
        return make(folder, marker)

    return both


def _import_live(path: Path) -> None:
    import sys

    sys.path.insert(0, str(path.parent))
    try:
        torch.export.load(path)
    finally:
        sys.path.remove(str(path.parent))
        sys.modules.pop("payload_module", None)


def _first_weight(key: str, new: Any) -> Change:
    def change(value: dict[str, Any], marker: Path) -> None:
        next(iter(value["config"].values()))["tensor_meta"][key] = new

    return edit(WEIGHTS, change)


def _input_spec(value: dict[str, Any], marker: Path) -> None:
    value["range_constraints"]["u99999999"] = {"min_val": 0, "max_val": 9}


def _huge_fill(value: dict[str, Any], marker: Path) -> None:
    node = _graph(value)["nodes"][0]
    node["inputs"].append({"name": "size", "arg": {"as_ints": [1 << 20, 1 << 20]}, "kind": 1})


def _cuda(value: dict[str, Any], marker: Path) -> None:
    _graph(value)["tensor_values"]["x"]["device"] = {"type": "cuda", "index": 0}


def _guards(value: dict[str, Any], marker: Path) -> None:
    value["guards_code"] = [code(marker)]


def _deep(entries: dict[str, bytes], marker: Path) -> None:
    entries[MODEL] = b'{"graph_module":' + b"[" * 100_000


BIG = [{"as_int": 1 << 30}, {"as_int": 1 << 20}]
CASES = (
    Case("pt2-sample-inputs", doctored(add(SAMPLES, saved)), HARMLESS, {}, "", load_and_use),
    Case("pt2-guard-code", doctored(edit(MODEL, _guards)), HARMLESS, {}, "", load_and_use),
    Case("pt2-cuda-device", doctored(edit(MODEL, _cuda)), HARMLESS),
    Case("pt2-extra-text", doctored(add("extra/notes.txt", b"hello")), HARMLESS),
    Case(
        "pt2-pickled-weight",
        doctored(*_pickled_weight("data/weights/weight_0", WEIGHTS)),
        "RUB-READ-021",
        {},
        "linear.weight",
        load_and_use,
    ),
    Case(
        "pt2-pickled-constant",
        doctored(*_pickled_weight("data/constants/tensor_0", CONSTANTS)),
        "RUB-READ-021",
        {},
        "shift",
        load_and_use,
    ),
    Case(
        "pt2-opaque-object",
        doctored(*_object("opaque_obj")),
        "RUB-READ-022",
        {},
        "opaque_obj_0",
        load_and_use,
    ),
    Case("pt2-custom-object", doctored(*_object("custom_obj")), "RUB-READ-022", {}, "custom_obj_0"),
    Case(
        "pt2-legacy-weights",
        doctored(add("data/weights/model.pt", saved)),
        "RUB-READ-020",
        {},
        "data/weights/model.pt",
        load_and_use,
    ),
    Case(
        "pt2-legacy-constants",
        doctored(add("data/constants/model.pt", saved)),
        "RUB-READ-020",
        {},
        "data/constants/model.pt",
        load_and_use,
    ),
    Case(
        "pt2-expression", doctored(edit(MODEL, _expression)), "RUB-READ-024", {}, "__import__", load_and_use
    ),
    Case("pt2-power-tower", doctored(edit(MODEL, _tower)), "RUB-READ-024", {}, "Pow"),
    Case(
        "pt2-target",
        doctored(edit(MODEL, lambda v, m: _call(v, "torch.os.mkdir", str(m)))),
        "RUB-READ-023",
        {},
        "torch.os.mkdir",
    ),
    Case(
        "pt2-target-attribute",
        doctored(edit(MODEL, lambda v, m: _call(v, "torch.ops.aten.add.Tensor.__call__", "x"))),
        "RUB-READ-023",
    ),
    Case(
        "pt2-file-operator",
        doctored(edit(MODEL, lambda v, m: _call(v, "torch.ops.aten.from_file.default", "x"))),
        "RUB-READ-023",
        {},
        "from_file",
    ),
    Case(
        "pt2-other-namespace",
        doctored(edit(MODEL, lambda v, m: _call(v, "torch.ops.inductor.x.default", "x"))),
        "RUB-READ-023",
        {},
        "inductor",
    ),
    Case(
        "pt2-extension-operator",
        doctored(edit(MODEL, lambda v, m: _call(v, "#os:mkdir", "x"))),
        "RUB-READ-023",
        {},
        "#os",
    ),
    Case(
        "pt2-name",
        doctored(edit(MODEL, lambda v, m: _rename_input(v, f"x={code(m)}"))),
        "RUB-READ-024",
        {},
        "__import__",
        load_and_use,
    ),
    Case(
        "pt2-tree-enum",
        _with_module(doctored(_module_tree("enum"))),
        "RUB-READ-024",
        {},
        "payload_module",
        _import_live,
    ),
    Case(
        "pt2-tree-factory",
        _with_module(doctored(_module_tree("factory"))),
        "RUB-READ-024",
        {},
        "defaultdict",
        _import_live,
    ),
    Case("pt2-endless-symbol", doctored(edit(MODEL, _input_spec)), "RUB-READ-024", {}, "u99999999"),
    Case("pt2-huge-fill", doctored(edit(MODEL, _huge_fill)), "RUB-READ-011"),
    Case("pt2-compiled-code", doctored(add("data/aotinductor/model/x.so")), "RUB-READ-020", {}, "x.so"),
    Case("pt2-executorch", doctored(add("data/executorch/x.pte")), "RUB-READ-020", {}, "x.pte"),
    Case("pt2-extra-pickle", doctored(add("extra/x.pkl", saved)), "RUB-READ-020", {}, "extra/x.pkl"),
    Case("pt2-escaping-entry", doctored(add("../../x")), "RUB-READ-007", {}, "../../x"),
    Case("pt2-two-programs", doctored(add("models/other.json", b"{}")), "RUB-READ-025"),
    Case("pt2-no-weights-table", doctored(drop(WEIGHTS)), "RUB-READ-025", {}, "weights_config"),
    Case("pt2-garbage", doctored(add(MODEL, b"\xff\x00")), "RUB-READ-025"),
    Case("pt2-empty-program", doctored(add(MODEL, b"{}")), "RUB-READ-025"),
    Case("pt2-deep-json", doctored(_deep), "RUB-READ-025"),
    Case("pt2-absurd-tensor", doctored(_first_weight("sizes", BIG)), "RUB-READ-011"),
    Case(
        "pt2-absurd-empty",
        doctored(_first_weight("sizes", BIG), add("data/weights/weight_0", b"")),
        "RUB-READ-011",
    ),
    Case("pt2-negative-offset", doctored(_first_weight("storage_offset", {"as_int": -4})), "RUB-READ-025"),
    Case("pt2-short-weight", doctored(add("data/weights/weight_0", b"abcd")), "RUB-READ-011"),
    Case("pt2-ragged-weight", doctored(add("data/weights/weight_0", bytes(49))), "RUB-READ-011"),
    Case(
        "pt2-nan",
        doctored(add("data/weights/weight_0", b"\x00\x00\xc0\x7f" * 12)),
        "RUB-READ-014",
        {},
        "linear.weight",
    ),
    Case("pt2-sparse-layout", doctored(_first_weight("layout", 1)), "RUB-READ-017"),
    Case("pt2-with-arch", doctored(), "RUB-READ-032", {"arch": "taiyaki-mgru"}),
)
