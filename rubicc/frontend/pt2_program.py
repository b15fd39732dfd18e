"""Judging the program JSON of a ``.pt2`` before torch sees it.

``torch.export.load`` trusts this JSON: size expressions go through ``sympify`` (an ``eval``), node targets
are resolved by attribute look-up from ``torch``, names become generated source, tree descriptions import
modules, guard code is executed. So every string must stand at a known key and pass that key's rule; any
other string refuses the file.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
from collections.abc import Callable
from typing import Any

from rubicc.errors import ModelRefused
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.text import printable

_HINT = "export again with torch.export.save from plain tensors and aten operators"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_QUALIFIED = re.compile(r"[A-Za-z0-9_]{1,255}(\.[A-Za-z0-9_]{1,255}){0,63}")
_SYMBOL = re.compile(r"[a-z]{1,3}[0-9]{1,6}")
_ATEN = re.compile(r"torch\.ops\.aten\.([A-Za-z_][A-Za-z0-9_]*)\.[A-Za-z0-9_]+")
# Private aten operators assume checked arguments; these are the ones export itself writes.
_PRIVATE_ATEN = frozenset(
    {
        "_to_copy",
        "_softmax",
        "_log_softmax",
        "_unsafe_view",
        "_native_batch_norm_legit_no_training",
        "_assert_scalar",
        "_assert_tensor_metadata",
        "_adaptive_avg_pool2d",
        "_scaled_dot_product_flash_attention_for_cpu",
    }
)
_FILE_ATEN = frozenset({"from_file"})
_OPERATORS = frozenset(
    f"_operator.{name}"
    for name in (
        *("eq", "ne", "le", "ge", "lt", "gt", "neg", "pos", "add", "sub", "mul", "floordiv", "truediv"),
        *("mod", "and_", "or_", "getitem"),
    )
)
_FUNCTIONS = frozenset(
    {
        *(f"torch.sym_{name}" for name in ("int", "float", "max", "min", "not", "ite", "sqrt")),
        *(f"torch.ops.higher_order.wrap_with_{name}" for name in ("set_grad_enabled", "autocast")),
        "math.trunc",
    }
)
_EXPRESSION_CALLS = frozenset(
    {
        *("Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Max", "Min", "Eq", "Ne", "Equality"),
        *(
            "Unequality",
            "Lt",
            "Le",
            "Gt",
            "Ge",
            "StrictLessThan",
            "StrictGreaterThan",
            "LessThan",
            "GreaterThan",
        ),
        *(
            "And",
            "Or",
            "Not",
            "FloorDiv",
            "ModularIndexing",
            "Where",
            "PythonMod",
            "Mod",
            "CleanDiv",
            "CeilDiv",
        ),
        *("CeilToInt", "FloorToInt", "IntTrueDiv", "FloatTrueDiv", "TruncToInt", "TruncToFloat", "ToFloat"),
        *("RoundToInt", "Identity", "ceiling", "floor", "Pow"),
    }
)
_EXPRESSION_NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.Name, ast.Constant, ast.Load),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd, ast.keyword),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
_ASSUMPTIONS = frozenset({"positive", "integer", "nonnegative", "real", "nonzero", "negative"})
_CONTAINERS = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"})
_MODULE_STACK = re.compile(r"[\w.\[\]()', <>@$-]*")
_MAX_ELEMENTS = 1 << 32
_MAX_POWERS = 4


def clean_program(text: bytes, where: str, limits: Limits = DEFAULT) -> tuple[bytes, list[str]]:
    """The program JSON with everything executable removed, and what was removed.

    Raises:
        ModelRefused: RUB-READ-022 custom object, -023 operator, -024 name, expression or tree,
            -025 malformed.
    """
    try:
        program = json.loads(text)
        if not isinstance(program, dict) or not isinstance(program.get("graph_module"), dict):
            raise ValueError("no graph_module")
        removed = _neutralise(program)
        _Walk(where, limits).value(program, "", 0)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as err:
        raise ModelRefused(
            "RUB-READ-025",
            f"malformed program: {printable(str(err), 200) or type(err).__name__}",
            where=where,
            hint=_HINT,
        ) from err
    return json.dumps(program).encode(), removed


def _neutralise(program: dict[str, Any]) -> list[str]:
    """Empty what only serves debugging or run-time checks, and move devices to the CPU, in place."""
    program["guards_code"] = []  # repeats the range constraints, which stay
    module = program["graph_module"]
    module["metadata"] = {}
    module["treespec_namedtuple_fields"] = {}
    devices: set[str] = set()
    pending: list[Any] = [program]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            if "target" in item and "metadata" in item:
                item["metadata"] = _module_stack(item["metadata"])
            if set(item) == {"type", "index"}:
                if item["type"] != "cpu":
                    devices.add(str(item["type"])[:20])
                item.update(type="cpu", index=None)
            pending.extend(item.values())
    return [f"device {', '.join(sorted(devices))} by cpu"] if devices else []


def _module_stack(metadata: Any) -> dict[str, str]:
    """Only the module path of a node survives: reports need it and torch does nothing but split it."""
    stack = metadata.get("nn_module_stack") if isinstance(metadata, dict) else None
    if isinstance(stack, str) and len(stack) < 10_000:
        parts = stack.split(";")
        if all(_MODULE_STACK.fullmatch(part) and part.count(",") == 2 for part in parts):
            return {"nn_module_stack": stack}
    return {}


class _Walk:
    """Visits every value of the program; strings are allowed only where a rule knows them."""

    def __init__(self, where: str, limits: Limits) -> None:
        self.where = where
        self.limits = limits
        self.rules: dict[str, Callable[[str], None]] = {
            **dict.fromkeys(("name", "as_name", "forward_arg_names"), self.identifier),
            **dict.fromkeys(
                ("fqn", "parameter_name", "buffer_name", "tensor_constant_name", "user_input_name"),
                self.qualified,
            ),
            **dict.fromkeys(("target", "as_operator"), self.operator),
            **dict.fromkeys(("in_spec", "out_spec"), self.tree),
            "expr_str": self.expression,
            **dict.fromkeys(("as_string", "as_strings"), self.plain),
            **dict.fromkeys(("nn_module_stack", "torch_version", "verifiers"), self.plain),
            "type": self.cpu,
            **dict.fromkeys(("as_float", "as_floats"), self.special_float),
        }

    def value(self, item: Any, key: str, depth: int) -> None:
        if depth > self.limits.depth:
            raise ValueError("nested too deeply")
        if isinstance(item, str):
            rule = self.rules.get(key)
            if rule is None:
                raise ValueError(f"text {item[:60]!r} at {key!r}")
            rule(item)
        elif isinstance(item, list):
            if (
                key == "as_ints"
                and math.prod(abs(n) or 1 for n in item if isinstance(n, int)) > _MAX_ELEMENTS
            ):
                raise ModelRefused(
                    "RUB-READ-011", f"tensor of size {item!r:.80}", where=self.where, hint=_HINT
                )
            for child in item:
                self.value(child, key, depth + 1)
        elif isinstance(item, dict):
            self.mapping(item, key, depth)
        elif isinstance(item, int) and abs(item) >= 1 << 64:
            raise ValueError("integer beyond 64 bits")

    def mapping(self, item: dict[str, Any], key: str, depth: int) -> None:
        if (key == "custom_obj_values" and item) or "as_custom_obj" in item or "custom_obj" in item:
            raise ModelRefused(
                "RUB-READ-022", f"custom object in {key or 'the program'}", where=self.where, hint=_HINT
            )
        for name, child in item.items():
            if key == "range_constraints":
                if not _SYMBOL.fullmatch(name):
                    self.refuse("symbol", name)
            else:
                self.qualified(name)
            self.value(child, name, depth + 1)

    def refuse(self, kind: str, text: str, code: str = "RUB-READ-024") -> None:
        raise ModelRefused(code, f"{kind} {text[:120]!r}", where=self.where, hint=_HINT)

    def identifier(self, text: str) -> None:
        bad = text and not _IDENTIFIER.fullmatch(text)
        if bad or keyword.iskeyword(text) or text.startswith("__"):
            self.refuse("name", text)

    def qualified(self, text: str) -> None:
        if text and not _QUALIFIED.fullmatch(text):
            self.refuse("name", text)

    def operator(self, text: str) -> None:
        aten = _ATEN.fullmatch(text)
        if aten:
            name = aten.group(1)
            if name not in _FILE_ATEN and (not name.startswith("_") or name in _PRIVATE_ATEN):
                return
        elif text in _OPERATORS or text in _FUNCTIONS:
            return
        self.refuse("operator", text, "RUB-READ-023")

    def plain(self, text: str) -> None:
        if len(text) > 10_000 or not text.isprintable():
            self.refuse("text", text)

    def cpu(self, text: str) -> None:
        if text != "cpu":
            self.refuse("device", text)

    def special_float(self, text: str) -> None:
        if text not in ("Infinity", "-Infinity", "NaN"):
            self.refuse("number", text)

    def tree(self, text: str) -> None:
        protocol, root = json.loads(text)
        if protocol != 1:
            raise ValueError(f"tree description of protocol {protocol!r}")
        pending = [(root, 0)]
        while pending:
            node, depth = pending.pop()
            if not isinstance(node, dict) or depth > self.limits.depth:
                raise ValueError("malformed tree description")
            kind, context = node.get("type"), node.get("context")
            if kind is not None and kind not in _CONTAINERS:
                self.refuse("tree of type", str(kind))
            if context is not None:
                self.tree_context(context)
            pending.extend((child, depth + 1) for child in node["children_spec"])

    def tree_context(self, context: Any) -> None:
        """Contexts are JSON text; only null and lists of plain keys are let through (no ``__enum__``)."""
        value = json.loads(context) if isinstance(context, str) else context
        if value is None or (isinstance(value, list) and all(isinstance(v, str | int) for v in value)):
            return
        self.refuse("tree context", str(context))

    def expression(self, text: str) -> None:
        """Arithmetic over symbols in torch's printed form; no attribute, subscript, string or other name."""
        if len(text) > 4000:
            self.refuse("expression", text)
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            self.refuse("expression", text)
        powers = [node for node in ast.walk(tree) if _is_call(node, "Pow")]
        if len(powers) > _MAX_POWERS or not all(_small_power(node) for node in powers):
            self.refuse("expression", text)
        symbols = {id(call.args[0]) for call in ast.walk(tree) if _is_symbol_call(call)}  # type: ignore[attr-defined]
        for node in ast.walk(tree):
            fine = isinstance(node, _EXPRESSION_NODES)
            if isinstance(node, ast.Call):
                fine = isinstance(node.func, ast.Name) and node.func.id in _EXPRESSION_CALLS
            elif isinstance(node, ast.Name):
                fine = bool(_SYMBOL.fullmatch(node.id)) or node.id in _EXPRESSION_CALLS
            elif isinstance(node, ast.keyword):
                fine = node.arg in _ASSUMPTIONS and isinstance(node.value, ast.Constant)
            elif isinstance(node, ast.Constant):
                number = isinstance(node.value, int | float) and abs(node.value) < 1 << 63
                fine = number or id(node) in symbols
            if not fine:
                self.refuse("expression", text)


def _is_call(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _small_power(node: Any) -> bool:
    """``Pow(base, Integer(n))`` with a small ``n``: evaluating towers of powers would never end."""
    exponent = node.args[1] if len(node.args) == 2 else None
    if exponent is not None and _is_call(exponent, "Integer") and len(exponent.args) == 1:
        exponent = exponent.args[0]
    if isinstance(exponent, ast.UnaryOp):
        exponent = exponent.operand
    return isinstance(exponent, ast.Constant) and isinstance(exponent.value, int) and exponent.value <= 8


def _is_symbol_call(node: ast.AST) -> bool:
    """``Symbol('s77', ...)``: the one place where an expression may hold text."""
    return (
        _is_call(node, "Symbol")
        and isinstance(node, ast.Call)
        and len(node.args) == 1
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
        and bool(_SYMBOL.fullmatch(node.args[0].value))
    )
