"""Putting tensors into an architecture: one clear error when they do not fit."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import ModelRefused, UsageError
from rubicc.evidence.decision import Decision
from rubicc.evidence.manifest import file_sha256
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.frontend.source import Source
from rubicc.text import first_line, printable

if TYPE_CHECKING:
    import torch

    from rubicc.spec import ModelMeta

_NESTED = ("state_dict", "model_state_dict", "model", "net", "weights")
_COUNTERS = ("num_batches_tracked",)
_REPEATS = re.compile(r"(layers|repeat|depth)$")


def as_state_dict(value: Any, where: str) -> tuple[dict[str, torch.Tensor], list[Decision]]:
    """The mapping of names to tensors in ``value``, looking one level into training checkpoints.

    Raises:
        ModelRefused: RUB-READ-012 when there is none.
    """
    if _is_state_dict(value):
        return dict(value), []
    if isinstance(value, dict):
        for key in _NESTED:
            if _is_state_dict(value.get(key)):
                others = sorted(str(k) for k in value if k != key)
                decision = Decision(
                    "RUB-READ-D03",
                    where,
                    f"used {key!r}, ignored {printable(', '.join(others), 120)}",
                    "training checkpoint",
                )
                return dict(value[key]), [decision]
    found = (
        printable(", ".join(sorted(str(k) for k in value)[:6]), 200)
        if isinstance(value, dict)
        else type(value).__name__
    )
    raise ModelRefused(
        "RUB-READ-012",
        f"no mapping of names to tensors (found: {found or 'an empty dictionary'})",
        where=where,
        hint="save model.state_dict()",
    )


def _is_state_dict(value: Any) -> bool:
    import torch

    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    )


def prepare(
    tensors: Mapping[str, torch.Tensor], where: str
) -> tuple[dict[str, torch.Tensor], list[Decision]]:
    """Dense float32 (and integer) CPU tensors without a wrapper's name prefix.

    Raises:
        ModelRefused: RUB-READ-014 for NaN or infinity, -017 for sparse, complex or quantised tensors.
    """
    import torch

    decisions = []
    result = dict(tensors)
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in result):
            result = {name[len(prefix) :]: value for name, value in result.items()}
            decisions.append(
                Decision("RUB-READ-D02", where, f"removed {prefix!r}", "wrapper around the module")
            )
    converted: dict[str, int] = {}
    for name, value in result.items():
        if (
            value.layout != torch.strided
            or value.is_quantized
            or value.is_complex()
            or value.device.type != "cpu"
        ):
            raise ModelRefused(
                "RUB-READ-017",
                f"tensor {name[:80]!r} is {value.layout}, {value.dtype}",
                where=where,
                hint="save it dense",
            )
        if value.is_floating_point():
            if not finite(value):
                bad = int((~torch.isfinite(value)).sum())
                raise ModelRefused(
                    "RUB-READ-014",
                    f"tensor {name[:80]!r} holds {bad} NaN or infinite of {value.numel()} values",
                    where=where,
                    hint="use another checkpoint",
                )
            if value.dtype != torch.float32:
                converted[str(value.dtype)] = converted.get(str(value.dtype), 0) + 1
                result[name] = value.to(torch.float32)
    if converted:
        listed = ", ".join(f"{count} from {dtype}" for dtype, count in sorted(converted.items()))
        decisions.append(
            Decision("RUB-READ-D01", where, f"tensors converted: {listed}", "graphs start in float32")
        )
    return result, decisions


def finite(value: torch.Tensor) -> bool:
    """Whether every element is finite, without a temporary as large as the tensor for large ones."""
    import torch

    if torch.isfinite(
        value.sum(dtype=torch.float64)
    ):  # what is not finite would show; half the memory traffic
        return True
    if value.numel() <= 1 << 20:
        return bool(torch.isfinite(value).all())
    flat = value.reshape(-1)
    step = 1 << 20
    return all(bool(torch.isfinite(flat[i : i + step]).all()) for i in range(0, flat.numel(), step))


def build_arch(
    arch: str,
    config: Mapping[str, Any] | None,
    tensors: Mapping[str, torch.Tensor],
    where: str,
    *,
    chosen: bool = False,
) -> tuple[torch.nn.Module, ModelMeta]:
    """The zoo's ``arch`` with ``tensors`` in it, and its metadata.

    Shapes are compared on the meta device first, so a configuration that asks for absurd sizes allocates
    nothing. ``chosen`` says that the user named the architecture, so that another may be suggested.

    Raises:
        UsageError: RUB-MODEL-* for an unknown name or configuration.
        ModelRefused: RUB-READ-013 when names or shapes differ, -033 for impossible configurations.
    """
    from rubicc.models import registry

    entry = registry.get(arch)
    settings = None
    if config is not None:
        check_config(config, where)
        settings = entry.config_from_dict(config)
    module = fill(lambda: entry.build(settings), tensors, where, arch, chosen=chosen)
    return module, entry.meta(settings)


def rebuilt(
    kind: str,
    path: Path,
    arch: str,
    config: Mapping[str, Any] | None,
    tensors: Mapping[str, torch.Tensor],
    *,
    decisions: Sequence[Decision] = (),
    chosen: bool = False,
) -> Source:
    """The source of a file whose ``tensors`` belong to the zoo's ``arch``.

    Raises:
        UsageError, ModelRefused: as :func:`prepare` and :func:`build_arch`.
    """
    tensors, found = prepare(tensors, path.name)
    module, meta = build_arch(arch, config, tensors, path.name, chosen=chosen)
    return Source(
        kind=kind,
        name=path.stem,
        sha256=file_sha256(path),
        meta=meta,
        module=module,
        decisions=[*decisions, *found],
    )


def fill(
    build: Callable[[], torch.nn.Module],
    tensors: Mapping[str, torch.Tensor],
    where: str,
    arch: str,
    *,
    chosen: bool,
) -> torch.nn.Module:
    """``build()`` in eval mode with ``tensors`` loaded strictly (RUB-READ-013)."""
    import torch

    try:
        with torch.device("meta"), _undrawn():
            sketch = build()
    except (UsageError, ModelRefused):
        raise
    except (ValueError, TypeError, RuntimeError, OverflowError, AssertionError) as err:
        raise ModelRefused(
            "RUB-READ-033",
            f"{arch} cannot be built: {first_line(err)}",
            where=where,
            hint="check the configuration",
        ) from err
    compare(sketch.state_dict(), tensors, where, arch, chosen=chosen)
    with _undrawn():
        module = build()
    module.load_state_dict(dict(tensors), strict=False)
    return module.eval()


def _undrawn() -> contextlib.AbstractContextManager[Any]:
    """Modules built in here draw no random weights: all are overwritten, and drawing costs seconds.

    On the meta device a draw would also import torch's compiler.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    init = torch.nn.init
    draws = {torch.Tensor.normal_, torch.Tensor.uniform_, init.orthogonal_, init.trunc_normal_}
    draws |= {init.normal_, init.uniform_, init.kaiming_normal_, init.kaiming_uniform_}
    draws |= {init.xavier_normal_, init.xavier_uniform_}

    class Undrawn(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            if func in draws:
                tensor = args[0] if args else (kwargs or {})["tensor"]
                # Not left as it is: torch's truncated normal draws again until no value is out of bounds.
                with torch.no_grad():
                    return tensor if tensor.is_meta else tensor.zero_()
            return func(*args, **(kwargs or {}))

    return Undrawn()


def compare(
    expected: Mapping[str, torch.Tensor],
    given: Mapping[str, torch.Tensor],
    where: str,
    arch: str,
    *,
    chosen: bool = False,
) -> None:
    """One RUB-READ-013 error listing the first missing, unexpected and misshapen tensors."""
    missing = [n for n in expected if n not in given and not n.endswith(_COUNTERS)]
    unexpected = [n for n in given if n not in expected and not n.endswith(_COUNTERS)]
    misshapen = [n for n in expected if n in given and expected[n].shape != given[n].shape]
    if not (missing or unexpected or misshapen):
        return
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({_some(missing)})")
    if unexpected:
        parts.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    if misshapen:
        name = misshapen[0]
        parts.append(
            f"{len(misshapen)} of another shape ({printable(name)}: file {list(given[name].shape)}, "
            f"{arch} {list(expected[name].shape)})"
        )
    hint = _fit_hint(arch, expected, given) if chosen else "weights and configuration do not belong together"
    raise ModelRefused("RUB-READ-013", f"{arch}: " + "; ".join(parts), where=where, hint=hint)


def _some(names: list[str]) -> str:
    return ", ".join(printable(n) for n in names[:3]) + (", ..." if len(names) > 3 else "")


def _fit_hint(arch: str, expected: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The likeliest mend: another architecture that fits by name, or a similar tensor name."""
    import torch

    from rubicc.models import registry

    foreign = len(set(expected) & set(given)) * 2 < len(given)
    for name in registry.names() if foreign else ():
        entry = registry.get(name)
        quantised = getattr(entry.default, "quantised", False)  # importing Brevitas takes seconds
        if name == arch or (quantised and not any("quant" in key for key in given)):
            continue
        try:
            with torch.device("meta"):
                keys = entry.build().state_dict()
        except Exception:  # a hint must never replace the error it belongs to
            continue
        if {k for k in keys if not k.endswith(_COUNTERS)} == {k for k in given if not k.endswith(_COUNTERS)}:
            return f"did you mean --arch {name}?"
    for name in given:
        near = difflib.get_close_matches(name, [n for n in expected if n not in given], n=1)
        if name not in expected and near:
            return f"{name[:80]!r}: did you mean {near[0]!r}? check --arch and --arch-config"
    return f"check --arch-config; `rubicc models show {arch}` lists the defaults"


def check_config(value: Any, where: str, limits: Limits = DEFAULT) -> None:
    """Refuse (RUB-READ-033) configurations with absurd integers, nesting or sizes, before using them."""
    pending: list[tuple[Any, str, int]] = [(value, "", 0)]
    count = 0
    while pending:
        item, key, depth = pending.pop()
        count += 1
        bound = limits.layers if _REPEATS.search(key) else limits.config_int
        problem = ""
        if isinstance(item, int | float) and not abs(item) <= bound:
            problem = f"{key or 'value'} = {item!r:.40}, at most {bound} is accepted,"
        elif depth > limits.depth:
            problem = "nesting too deep"
        elif count > limits.config_items:
            problem = f"more than {limits.config_items} values"
        if problem:
            raise ModelRefused(
                "RUB-READ-033", f"{problem} in the configuration", where=where, hint="check it"
            )
        if isinstance(item, Mapping):
            pending.extend((child, str(name), depth + 1) for name, child in item.items())
        elif isinstance(item, list | tuple):
            pending.extend((child, key, depth + 1) for child in item)
