"""Which form Core ML stores a weight in: the table of forms, what each costs, and the smallest that is exact.

Sources: coremltools' operator definitions iOS16/constexpr_ops.py and iOS18/compression.py (types, sizes);
"What's New" of its compression guide (which form since which system). A scale behind a look-up
(``constexpr_lut_to_dense`` into ``constexpr_blockwise_shift_scale``) is valid there and not written here: it
fails to load on the Neural Engine (coremltools #2688). A palette with a table per channel says the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from rubicc.backends.coreml.compress.weight import Grid, Palette, Weight, spread

Arrays = dict[str, np.ndarray]
FLOATS: dict[str, np.dtype] = {"fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32)}
ALIGNMENT = 64  # of every blob in weight.bin; as long is the record in front of it
IMMEDIATE = 10  # arrays with fewer elements stand in the program itself
SCALE_LIMIT = 2.0**-9  # largest relative change of a scale by fp16: a quarter of a step at code 127


@dataclass(frozen=True)
class Form:
    """One way to store a weight.

    Attributes:
        name: as in reports.
        operations: MIL operations, the last one gives the weight.
        weights: what it stores: ``grid``, ``palette``, ``dense``.
        packed: iOS16's operators with flat packed arrays (and still right on iOS17), else those since iOS18.
        granularity: parts that may have a scale or table of their own.
        widths: bits of a stored code.
        sparse: stores no zeros; for weights whose zeros were put there on purpose.
    """

    name: str
    operations: tuple[str, ...]
    weights: tuple[str, ...]
    packed: bool
    granularity: tuple[str, ...]
    widths: tuple[int, ...]
    sparse: bool = False


TENSOR, CHANNEL, BLOCK = "tensor", "channel", "block"
ALL = (TENSOR, CHANNEL, BLOCK)
# In order of preference where sizes are equal.
FORMS: tuple[Form, ...] = (
    Form("scaled", ("constexpr_affine_dequantize",), ("grid",), True, (TENSOR, CHANNEL), (8,)),
    Form("scaled", ("constexpr_blockwise_shift_scale",), ("grid",), False, ALL, (4, 8)),
    Form("palette", ("constexpr_lut_to_dense",), ("grid", "palette"), True, (TENSOR,), (1, 2, 4, 6, 8)),
    Form("palette", ("constexpr_lut_to_dense",), ("grid", "palette"), False, ALL, (1, 2, 3, 4, 6, 8)),
    Form("joined palette", ("constexpr_lut_to_dense",), ("grid", "palette"), True, ALL, (1, 2, 4, 6, 8)),
    Form("joined palette", ("constexpr_lut_to_dense",), ("grid", "palette"), False, ALL, (1, 2, 3, 4, 6, 8)),
    Form("sparse", ("constexpr_sparse_to_dense",), ("dense",), True, (TENSOR,), (16, 32), True),
    Form("sparse", ("constexpr_sparse_to_dense",), ("dense",), False, (TENSOR,), (16, 32), True),
    Form(
        "sparse scaled",
        ("constexpr_sparse_blockwise_shift_scale", "constexpr_sparse_to_dense"),
        ("grid",),
        False,
        ALL,
        (4, 8),
        True,
    ),
    Form(
        "sparse palette",
        ("constexpr_lut_to_sparse", "constexpr_sparse_to_dense"),
        ("palette",),
        False,
        ALL,
        (1, 2, 3, 4, 6, 8),
        True,
    ),
)
PLAIN = Form("plain", ("const",), ("grid", "palette", "dense"), False, ALL, (16, 32))


@dataclass(frozen=True)
class Choice:
    """A form that fits a weight.

    Attributes:
        width: bits of a stored code.
        nbytes: what it takes in weight.bin and, where small, in the program.
        rounding: largest relative change of a scale by the precision; entries of tables are the values
            themselves in the precision of the program, which is no change beyond that.
        arrays: makes the arrays to store, by parameter; codes have one element per code, unpacked.
    """

    form: Form
    width: int
    nbytes: int
    rounding: float
    arrays: Callable[[], Arrays]


def choose(weight: Weight, *, packed: bool, precision: str) -> Choice:
    """The smallest form that keeps the codes of ``weight``; plain floats where none does or none is smaller.

    Args:
        packed: the target is older than iOS18.
        precision: ``fp16`` or ``fp32``, of the program.
    """
    return smallest(choices(weight, packed=packed, precision=precision))


def smallest(options: Iterable[Choice]) -> Choice:
    """The first of those that take the fewest bytes."""
    return min(options, key=lambda choice: choice.nbytes)


def choices(weight: Weight, *, packed: bool, precision: str) -> Iterator[Choice]:
    """Every form that keeps the codes, in the order of the table, plain floats last."""
    dtype = FLOATS[precision]
    size = math.prod(weight.shape)
    for form in FORMS:
        wanted = kind_of(weight) in form.weights and granularity(weight) in form.granularity
        if wanted and form.packed == packed and (weight.sparse or not form.sparse) and size and weight.shape:
            made = _MAKERS[form.name](form, weight, dtype)
            if made is not None:
                yield made
    yield Choice(
        PLAIN, 8 * dtype.itemsize, blob(size, 8 * dtype.itemsize), 0.0, lambda: {"val": weight.array()}
    )


def kind_of(weight: Weight) -> str:
    """``dense``, ``grid`` or ``palette``."""
    return type(weight).__name__.lower()


def blocks_of(weight: Weight) -> tuple[int, ...]:
    """Number of blocks along every axis that have a scale or a table of their own."""
    if isinstance(weight, Grid):
        return weight.scale.shape
    return weight.group.shape if isinstance(weight, Palette) else (1,) * len(weight.shape)


def granularity(weight: Weight) -> str:
    """``tensor``, ``channel`` (every element of one axis has its own) or ``block``."""
    counts = blocks_of(weight)
    many = [axis for axis, count in enumerate(counts) if count > 1]
    if not many:
        return TENSOR
    return CHANNEL if len(many) == 1 and counts[many[0]] == weight.shape[many[0]] else BLOCK


def blob(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits take: aligned with a record in front, or in the program."""
    size = -(-count * bits // 8)
    return size if count < IMMEDIATE else ALIGNMENT + -(-size // ALIGNMENT) * ALIGNMENT


def _scaled(form: Form, weight: Weight, dtype: np.dtype) -> Choice | None:
    """Codes and scales; zero points where there are any."""
    assert isinstance(weight, Grid)
    width = next((bits for bits in form.widths if _holds(bits, weight)), None)
    rounding = _change(weight.scale, dtype)
    if width is None or rounding > SCALE_LIMIT:
        return None
    zeros = bool(weight.zero.any())
    count, scales = math.prod(weight.shape), weight.scale.size
    if form.sparse:
        kept = max(1, int(np.count_nonzero(weight.codes != spread(weight.zero, weight.shape))))
        nbytes = blob(count, 1) + blob(kept, width)
    else:
        nbytes = blob(count, width)
    nbytes += blob(scales, 8 * dtype.itemsize) + (blob(scales, width) if zeros or form.packed else 0)

    def arrays() -> Arrays:
        codes = weight.codes.astype(np.int8 if weight.low < 0 else np.uint8, copy=False)
        made = {"codes": codes, "scale": weight.scale.astype(dtype)}
        if zeros or form.packed:
            made["zero"] = weight.zero.astype(codes.dtype)
        if form.sparse:
            made |= masked(codes, codes != spread(weight.zero, weight.shape))
        return made

    return Choice(form, width, nbytes, rounding, arrays)


def _palette(form: Form, weight: Weight, dtype: np.dtype) -> Choice | None:
    """Indices, and a table per block."""
    entries = _entries(weight)
    width = next((bits for bits in form.widths if 2**bits >= entries), None)
    if width is None or (isinstance(weight, Grid) and weight.bits > 8):
        return None
    tables = blocks_of(weight)
    nbytes = blob(math.prod(tables) * 2**width, 8 * dtype.itemsize)
    count = math.prod(weight.shape)
    if form.sparse:
        assert isinstance(weight, Palette)
        nbytes += blob(count, 1) + blob(max(1, int(np.count_nonzero(weight.indices))), width)
    else:
        nbytes += _indices_size(form, count, width)
    if nbytes >= blob(count, 8 * dtype.itemsize):
        return None  # before the tables are made: one per channel may be larger than the weight
    table, rounding = _tables(weight, dtype, width)
    if rounding > SCALE_LIMIT:
        return None

    def arrays() -> Arrays:
        made = {"codes": _indices(weight), "table": table.reshape(*tables, 2**width)}
        return made | masked(made["codes"], made["codes"] != 0) if form.sparse else made

    return Choice(form, width, nbytes, 0.0, arrays)


def _joined(form: Form, weight: Weight, dtype: np.dtype) -> Choice | None:
    """Few small tables, one behind the other, as one: exact where Core ML has one table per weight only."""
    tables, entries = math.prod(blocks_of(weight)), _entries(weight)
    width = next((bits for bits in form.widths if 2**bits >= tables * entries), None)
    if tables == 1 or width is None or (isinstance(weight, Grid) and weight.bits > 8):
        return None
    flat, rounding = _tables(weight, dtype, None)
    count = math.prod(weight.shape)
    nbytes = _indices_size(form, count, width) + blob(2**width, 8 * dtype.itemsize)
    if rounding > SCALE_LIMIT:
        return None

    def arrays() -> Arrays:
        number = spread(np.arange(tables).reshape(blocks_of(weight)), weight.shape)
        codes = (_indices(weight) + number * entries).astype(np.uint8)
        table = np.concatenate([flat.reshape(-1), np.full(2**width - flat.size, flat[-1, -1])])
        return {"codes": codes, "table": table.reshape(*(1,) * len(weight.shape), -1)}

    return Choice(form, width, nbytes, 0.0, arrays)


def _sparse(form: Form, weight: Weight, dtype: np.dtype) -> Choice | None:
    """The floats that are not 0, and where they are."""
    width, count = 8 * dtype.itemsize, math.prod(weight.shape)
    kept = max(1, int(np.count_nonzero(weight.array())))
    nbytes = blob(count, 1) + blob(kept, width)
    return Choice(form, width, nbytes, 0.0, lambda: masked(weight.array(), weight.array() != 0))


def masked(values: np.ndarray, mask: np.ndarray) -> Arrays:
    """What a mask keeps, row by row, and the mask; one element at least, for a file has no empty arrays."""
    if not mask.any():
        mask = np.arange(mask.size).reshape(mask.shape) == 0
    return {"codes": values[mask], "mask": mask}


_MAKERS: dict[str, Callable[[Form, Weight, np.dtype], Choice | None]] = {
    "scaled": _scaled,
    "palette": _palette,
    "joined palette": _joined,
    "sparse": _sparse,
    "sparse scaled": _scaled,
    "sparse palette": _palette,
}


def _indices_size(form: Form, count: int, width: int) -> int:
    """Packed indices are bytes to Core ML: few of them stand in the program, however many codes they hold."""
    return blob(-(-count * width // 8), 8) if form.packed else blob(count, width)


def _holds(bits: int, grid: Grid) -> bool:
    """Whether Core ML's integers of ``bits`` bits hold all codes and zero points of a format."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if grid.low < 0 else (0, 2**bits - 1)
    zero = grid.zero
    whole = bool(np.all((zero == np.rint(zero)) & (low <= zero) & (zero <= high)))
    return low <= grid.low and grid.high <= high and whole


def _entries(weight: Weight) -> int:
    """Values that a code may stand for, in one block."""
    if isinstance(weight, Grid):
        return weight.levels.size
    return weight.tables.shape[1] if isinstance(weight, Palette) else 0


def _indices(weight: Weight) -> np.ndarray:
    """Places of the codes in their tables."""
    if isinstance(weight, Grid):
        return weight.indices()
    assert isinstance(weight, Palette)
    return weight.indices


def _tables(weight: Weight, dtype: np.dtype, width: int | None) -> tuple[np.ndarray, float]:
    """Values by block and code in the precision of the program, and the largest relative change by it."""
    if isinstance(weight, Grid):
        scale, zero = weight.scale.reshape(-1, 1), weight.zero.reshape(-1, 1)
        exact = np.asarray((weight.levels[None, :] - zero) * scale, np.float32)
    else:
        assert isinstance(weight, Palette)
        exact = weight.tables[weight.group.reshape(-1)]
    if width is not None and exact.shape[1] < 2**width:
        last = np.repeat(exact[:, -1:], 2**width - exact.shape[1], axis=1)
        exact = np.concatenate([exact, last], axis=1)
    with np.errstate(over="ignore"):
        stored = exact.astype(dtype)
    largest = np.abs(exact).max(axis=1, keepdims=True)
    moved = np.abs(stored.astype(np.float32) - exact) / np.where(largest > 0, largest, 1.0)
    return stored, float(moved.max(initial=0.0))


def _change(scale: np.ndarray, dtype: np.dtype) -> float:
    """Largest relative change of a scale; infinite where it becomes 0 or infinite."""
    with np.errstate(over="ignore"):
        stored = scale.astype(dtype).astype(np.float32)
    if not np.isfinite(stored).all() or np.any((stored == 0) & (scale != 0)):
        return math.inf
    return float((np.abs(stored - scale) / np.where(scale != 0, np.abs(scale), 1.0)).max(initial=0.0))


def plain(weight: Weight, precision: str) -> Choice:
    """The plain form, with what rounding to ``precision`` changes relative to the largest weight."""
    *_, last = choices(replace(weight, sparse=False), packed=True, precision=precision)
    exact = weight.array()
    with np.errstate(over="ignore"):
        moved = np.abs(exact.astype(FLOATS[precision]).astype(np.float32) - exact)
    largest = float(np.abs(exact).max(initial=0.0))
    return replace(last, rounding=float(moved.max(initial=0.0)) / largest if largest else 0.0)
