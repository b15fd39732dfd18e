"""Rows of the table: operation types, element types, sizes of tensors."""

from __future__ import annotations

from rubicc.backends.coreml.lint import on_types
from rubicc.backends.coreml.lint.rule import Rule, rule

ROWS: tuple[Rule, ...] = (
    rule(
        "RUB-COREML-410",
        "eligible",
        "the operation type has an engine form on every chip from the A13 and M1 on",
        "book-matrix book-surface plan-detr plan-vox plan-whisper-encoder plan-whisper-decoder",
        op=on_types.computed,
    ),
    rule("RUB-COREML-411", "unknown", "no row for the operation type", "apple-rnn", op=on_types.unheard_of),
    rule(
        "RUB-COREML-412",
        "unknown",
        "the type exists on some generations only, or sources disagree: sin, cos, resize, crop_resize, "
        "resample, affine, upsample, random_uniform, reduce_argmin, cumsum",
        "book-matrix",
        "forge-capabilities",
        op=on_types.some_chips,
    ),
    rule(
        "RUB-COREML-413",
        "not",
        "the type has no form on any generation: reduce_prod, mod, logical_and, logical_or, logical_xor, "
        "one_hot, non_zero, shape, band_part, reverse_sequence, sliding_windows, range_1d, other "
        "trigonometry, random numbers, non_maximum_suppression",
        "book-surface book-matrix forge-capabilities",
        op=on_types.nowhere,
    ),
    rule("RUB-COREML-414", "not", "gru, lstm, rnn", "apple-rnn book-matrix hollance", op=on_types.recurrent),
    rule(
        "RUB-COREML-415",
        "not",
        "while_loop, cond, call, and every operation inside their blocks",
        "book-matrix forge-capabilities",
        op=on_types.control,
    ),
    rule("RUB-COREML-416", "not", "operations on tensor lists", "book-matrix", op=on_types.lists),
    rule(
        "RUB-COREML-417",
        "not",
        "scatter, scatter_nd, scatter_along_axis",
        "apple-scatter book-matrix",
        op=on_types.scatter,
    ),
    rule(
        "RUB-COREML-418",
        "not",
        "gather, gather_nd, gather_along_axis with indices that come in at run time",
        "plan-whisper-decoder plan-detr seed-gena gather-cpu hollance book-surface",
        "apple-scatter book-matrix",
        op=on_types.gather_at_run_time,
    ),
    rule(
        "RUB-COREML-419",
        "unknown",
        "gather with constant indices",
        "apple-scatter book-matrix",
        "hollance gather-cpu",
        op=on_types.gather_at_fixed_places,
    ),
    rule("RUB-COREML-420", "not", "topk, argsort", "plan-detr", "book-matrix", op=on_types.sorting),
    rule(
        "RUB-COREML-421",
        "unknown",
        "read_state, write_state",
        "book-matrix",
        "state-ane",
        op=on_types.state,
    ),
    rule(
        "RUB-COREML-425",
        "not",
        "a float32 or float64 tensor goes in or out at run time, other than in a cast",
        "guide-typed plan-vx-matrix norm-fp32 book-surface hollance-16bit",
        "forge-capabilities",
        op=on_types.float32,
    ),
    rule(
        "RUB-COREML-426",
        "not",
        "an integer tensor of 32 or 64 bits goes in or out at run time; the result of argmax is unknown",
        "book-surface forge-capabilities plan-whisper-decoder",
        op=on_types.integers,
    ),
    rule(
        "RUB-COREML-427",
        "unknown",
        "an integer tensor of up to 16 bits outside cast, quantize and dequantize, or a boolean that is "
        "only moved",
        "book-surface forge-capabilities",
        op=on_types.small_integers,
    ),
    rule(
        "RUB-COREML-430",
        "not",
        "a tensor of more than 5 axes",
        "book-surface forge-quirks",
        op=on_types.too_many_axes,
    ),
    rule(
        "RUB-COREML-431",
        "unknown",
        "a tensor of 5 axes",
        "book-surface book-rules apple-transformers",
        op=on_types.five_axes,
    ),
    rule(
        "RUB-COREML-432",
        "not",
        "one of the last two axes over 16,384 (unknown up to 65,536, which the A16 and M4 take), the "
        "channel axis over 65,536; axis 1 is the channel axis of convolutions, else the third from the end",
        "book-rules book-matrix forge-capabilities plan-larql",
        op=on_types.long_axis,
    ),
    rule("RUB-COREML-433", "not", "a tensor without elements", "book-surface", op=on_types.empty_axis),
    rule(
        "RUB-COREML-435",
        "not",
        "argmax or argmin over more than 2,048 places",
        "book-rules",
        op=on_types.long_argmax,
    ),
)
