"""Tests of rules about operation types, element types and sizes of tensors."""

from __future__ import annotations

from rubicc.backends.coreml.lint import engine
from rubicc.backends.coreml.lint.engine import limit, support
from rubicc.backends.coreml.lint.facts import FP16_BYTES, Op, elements
from rubicc.backends.coreml.lint.hits import Hit

SPATIAL = (16384, 16384, 16384, 65536)
CHANNELS = (65536, 65536, 65536, 65536)
WORKING_SET = 2 << 20
ALIGN = 64
WASTE = 4  # a tensor that takes this many times its size is worth a word
_INTEGERS = frozenset({"int32", "uint32", "int64", "uint64"})
_SMALL_INTEGERS = frozenset({"int4", "uint4", "int8", "uint8", "int16", "uint16"})
_TAKES_SMALL = frozenset({"cast", "quantize", "dequantize"})
_BOOLEAN = frozenset(
    {"equal", "not_equal", "greater", "greater_equal", "less", "less_equal", "logical_not", "select", "cast"}
)
_CONVOLUTIONS = frozenset({"conv", "conv_transpose"})


def computed(op: Op, family: str | None) -> Hit | None:
    """The positive rule: the type has an engine form on every chip that matters."""
    if op.kind in engine.OWN_RULE or support(op.kind, family) != "y":
        return None
    return Hit(f"{op.kind} has an engine form on {family or 'every chip from the A13 and M1 on'}")


def unheard_of(op: Op, family: str | None) -> Hit | None:
    """Nothing is known of the type."""
    known = op.kind in engine.ENGINE or op.kind in engine.OWN_RULE
    return None if known else Hit(f"nothing is known of {op.kind} on the engine")


def some_chips(op: Op, family: str | None) -> Hit | None:
    """Only newer chips have the type, or sources disagree on all of them."""
    found = "" if op.kind in engine.OWN_RULE else support(op.kind, family)
    if found not in ("chip", "?"):
        return None
    letters = dict(zip(engine.FAMILIES, engine.ENGINE[op.kind], strict=True))
    words = {"y": "native", "n": "none", "?": "unclear"}
    return Hit(f"{op.kind}: " + ", ".join(f"{chip} {words[letter]}" for chip, letter in letters.items()))


def nowhere(op: Op, family: str | None) -> Hit | None:
    """No chip that matters has the type."""
    if op.kind in engine.OWN_RULE or support(op.kind, family) != "n":
        return None
    return Hit(f"{op.kind} has no engine form" + (f" on the {family}" if family else ""))


def recurrent(op: Op, family: str | None) -> Hit | None:
    """GRU, LSTM, RNN."""
    return Hit(f"{op.kind} is a recurrent cell") if op.kind in engine.RECURRENT else None


def control(op: Op, family: str | None) -> Hit | None:
    """Loops and branches, and whatever stands in them."""
    if op.kind in engine.CONTROL:
        return Hit(f"{op.kind} is control flow")
    return Hit(f"stands in {op.path}") if op.nested else None


def lists(op: Op, family: str | None) -> Hit | None:
    """Operations on tensor lists."""
    return Hit(f"{op.kind} works on a list of tensors") if op.kind in engine.LISTS else None


def scatter(op: Op, family: str | None) -> Hit | None:
    """Writes to computed places."""
    return Hit(f"{op.kind} writes to computed places") if op.kind in engine.SCATTERS else None


def gather_at_run_time(op: Op, family: str | None) -> Hit | None:
    """Look-up by indices that come in at run time."""
    if op.kind not in engine.GATHERS or not op.at_run_time("indices"):
        return None
    indices = op.type_of("indices")
    return Hit(f"indices {indices} come in at run time")


def gather_at_fixed_places(op: Op, family: str | None) -> Hit | None:
    """Look-up by constant indices."""
    if op.kind not in engine.GATHERS or op.at_run_time("indices"):
        return None
    return Hit(f"{op.kind} at {elements(shape_of(op, 'indices')) or 1} fixed places")


def sorting(op: Op, family: str | None) -> Hit | None:
    """topk and argsort."""
    return Hit(f"{op.kind} sorts") if op.kind in engine.SORTS else None


def state(op: Op, family: str | None) -> Hit | None:
    """Reading and writing of state."""
    return (
        Hit(f"{op.kind} of {op.tensors[0] if op.tensors else 'a state'}")
        if op.kind in engine.STATES
        else None
    )


def float32(op: Op, family: str | None) -> Hit | None:
    """float32 anywhere but in the cast that makes or ends it."""
    if op.kind == "cast":
        return None
    wide = next((kind for kind in op.tensors if kind.dtype in ("fp32", "fp64")), None)
    return None if wide is None else Hit(f"{op.kind} on {wide}")


def integers(op: Op, family: str | None) -> Hit | None:
    """Integers at run time; the place that an argmax gives out is unclear rather than refused."""
    wide = next((kind for kind in op.tensors if kind.dtype in _INTEGERS), None)
    if wide is None or (op.kind in engine.GATHERS and op.at_run_time("indices")):
        return None
    if op.kind in ("reduce_argmax", "reduce_argmin") and wide not in op.data:
        return Hit(f"{op.kind} gives {wide}, which the engine can hold as float16 only", "unknown")
    return Hit(f"{op.kind} on {wide}")


def small_integers(op: Op, family: str | None) -> Hit | None:
    """8- and 16-bit integers, and booleans in operations that only move them."""
    if op.kind not in _TAKES_SMALL:
        small = next((kind for kind in op.tensors if kind.dtype in _SMALL_INTEGERS), None)
        if small is not None:
            return Hit(f"{op.kind} on {small}")
    if op.kind in _BOOLEAN or op.kind in engine.OWN_RULE or support(op.kind, family) == "n":
        return None
    flag = next((kind for kind in op.tensors if kind.dtype == "bool"), None)
    return None if flag is None else Hit(f"{op.kind} on {flag}")


def too_many_axes(op: Op, family: str | None) -> Hit | None:
    """Rank 6 and more."""
    many = next((kind for kind in op.tensors if len(kind.shape) > 5), None)
    return None if many is None else Hit(f"{many} has {len(many.shape)} axes")


def five_axes(op: Op, family: str | None) -> Hit | None:
    """Rank 5."""
    five = next((kind for kind in op.tensors if len(kind.shape) == 5), None)
    return None if five is None else Hit(f"{five} has 5 axes")


def long_axis(op: Op, family: str | None) -> Hit | None:
    """An axis longer than the engine takes; the second axis of a convolution's input counts as channels."""
    for kind in op.tensors:
        for axis, size in enumerate(kind.shape):
            if size is None:
                continue
            from_end = len(kind.shape) - axis
            channels = axis == 1 if op.kind in _CONVOLUTIONS else from_end == 3
            fits, fails = limit(CHANNELS if channels or from_end > 3 else SPATIAL, family)
            if size > fails:
                return Hit(f"axis {axis} of {kind} is {size:,} long, over {fails:,}")
            if size > fits:
                return Hit(f"axis {axis} of {kind} is {size:,} long: from the A16 and M4 on only", "unknown")
    return None


def empty_axis(op: Op, family: str | None) -> Hit | None:
    """A tensor without elements."""
    empty = next((kind for kind in op.tensors if 0 in kind.shape), None)
    return None if empty is None else Hit(f"{empty} has no elements")


def long_argmax(op: Op, family: str | None) -> Hit | None:
    """argmax over more than 2,048 places."""
    if op.kind not in ("reduce_argmax", "reduce_argmin") or not op.data:
        return None
    size = op.data[0].shape[int(op.value("axis", -1))]
    return Hit(f"{op.kind} over {size:,} places, over 2,048") if size is not None and size > 2048 else None


def wasted_alignment(op: Op, family: str | None) -> Hit | None:
    """A result whose last axis fills 64 bytes badly."""
    for kind in op.results:
        size, count = kind.shape[-1] if kind.shape else None, elements(kind.shape)
        if kind.dtype != "fp16" or size is None or count is None or count * FP16_BYTES <= ALIGN:
            continue
        ratio = aligned(size * FP16_BYTES) / (size * FP16_BYTES) if size else 1.0
        if ratio >= WASTE:
            return Hit(f"{kind} takes {ratio:.0f} times its {count * FP16_BYTES:,} bytes")
    return None


def large_operand(op: Op, family: str | None) -> Hit | None:
    """A tensor larger than 2 MB."""
    sizes = [(n * FP16_BYTES, kind) for kind in op.tensors if (n := elements(kind.shape)) is not None]
    large = max(sizes, key=lambda row: row[0], default=None)
    if large is None or large[0] <= WORKING_SET:
        return None
    return Hit(f"{large[1]} takes {large[0] / 2**20:.1f} MiB in float16, over 2")


def aligned(nbytes: int) -> int:
    """Bytes rounded up to a whole number of 64."""
    return -(-nbytes // ALIGN) * ALIGN


def shape_of(op: Op, parameter: str) -> tuple[int | None, ...]:
    """Shape of what a parameter is bound to, ``()`` when it is not bound to a tensor."""
    kind = op.type_of(parameter)
    return () if kind is None else kind.shape
