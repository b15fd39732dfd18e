"""Formats of layer normalisations and attentions from their weights and the grids of their ends."""

from __future__ import annotations

import numpy as np

from rubicc.errors import Unsupported
from rubicc.passes.integer.block_bodies import (
    INDEX_BITS,
    LARGEST,
    NORM_BITS,
    RECIPROCAL,
    Attention,
    AttentionSpec,
    Norm,
    NormSpec,
)
from rubicc.passes.integer.formats import Format

FINEST_SCORES = -7  # exponent of the table of exponentials: 1024 entries reach exp(-8), which is 0 of 255
GAIN_BITS = 13  # with sign; 28 bits remain for products with normalised values, 30 for the offset
OFFSET_LIMIT = 1 << 30
FINER = {8: 6, 16: 0}  # bits of a mean below the step of values of 8 and 16 bits
LANES = 8
MOST_SHIFT = 31


def spec_of(block: Norm | Attention, entry: Format, form: Format) -> tuple[NormSpec | AttentionSpec, Format]:
    """A block between values of ``entry`` and of ``form``, and the form it can make.

    Raises:
        Unsupported: ``RUB-PASS-032``: sizes or grids that its kernel has no numbers for.
    """
    return _norm(block, entry, form) if isinstance(block, Norm) else _attention(block, entry, form)


def _norm(block: Norm, entry: Format, form: Format) -> tuple[NormSpec, Format]:
    channels = len(block.gain)
    if channels % LANES or entry.bits not in FINER:
        raise _unfit(
            f"a normalisation over {channels} channels of {entry.bits} bits; it takes multiples of 8"
        )
    finer, spread = FINER[entry.bits], (channels - 1).bit_length()
    factor = np.sqrt(channels / 2.0**spread)  # of the root of the sum of squares; the gain has it too
    gain = np.asarray(block.gain, np.float64) * factor
    # With fewer bits where the offset would need more than 30, or the result more than the product has.
    top = np.log2(max(float(np.abs(gain).max(initial=0.0)), 2.0**-20) / (2.0 ** (GAIN_BITS - 1) - 1))
    far = np.log2(max(float(np.abs(block.offset).max(initial=0.0)), 2.0**-60) / OFFSET_LIMIT) + NORM_BITS
    grid = int(np.ceil(max(top, far)))
    form = Format(max(form.exponent, grid - NORM_BITS), form.bits, form.signed)
    step = 2.0 ** (2 * (entry.exponent - finer))
    floor = round(float(block.epsilon) / step * channels / 2.0**spread)
    shift = form.exponent + NORM_BITS - grid
    if floor >= 1 << 30 or shift > MOST_SHIFT:
        raise _unfit(f"a normalisation of values with steps of 2**{entry.exponent}; its sums are all zero")
    made = NormSpec(
        gain=np.rint(gain / 2.0**grid).astype(np.int64),
        offset=np.rint(np.asarray(block.offset, np.float64) / 2.0 ** (grid - NORM_BITS)).astype(np.int64),
        finer=finer, floor=max(1, floor), shift=shift, output_bits=form.bits, output_signed=form.signed,
        entry=entry.exponent, exit=form.exponent,
    )  # fmt: skip
    return made, form


def _attention(block: Attention, entry: Format, form: Format) -> tuple[AttentionSpec, Format]:
    if block.depth % LANES or entry.bits != 8 or not entry.signed:
        raise _unfit(f"heads of {block.depth} channels of {entry.bits} bits; it takes multiples of 8, int8")
    step = max(FINEST_SCORES, 2 * entry.exponent)
    exponent = min(max(form.exponent, entry.exponent - RECIPROCAL), entry.exponent + MOST_SHIFT - RECIPROCAL)
    form = Format(exponent, form.bits, form.signed)
    entries = np.rint(LARGEST * np.exp(-np.arange(1 << INDEX_BITS) * 2.0**step)).astype(np.int64)
    made = AttentionSpec(
        heads=block.heads, depth=block.depth, score_shift=step - 2 * entry.exponent, entries=entries,
        output_shift=RECIPROCAL + form.exponent - entry.exponent, output_bits=form.bits,
        output_signed=form.signed, entry=entry.exponent, exit=form.exponent,
    )  # fmt: skip
    return made, form


def _unfit(what: str) -> Unsupported:
    return Unsupported(
        "RUB-PASS-032", what, hint="use multiples of 8 channels, or choose --target cpu for this model"
    )
