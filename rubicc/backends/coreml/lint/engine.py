"""Which MIL operations have an engine form, by generation of the chip.

The table of the ANE guide (source ``book-matrix``: compiled and run on M1, M2 and M5, predicted from compiler
tables for M3 and M4), as facts about operation types. One letter per generation: ``y`` native, ``n`` none,
``?`` unclear.
"""

from __future__ import annotations

# First chip of each generation: A13 and M1, A14 and M2, A15 and M3, A16, M4 and later.
FAMILIES = ("M1", "M2", "M3", "M4")
_TABLE = {
    "yyyy": """
        conv conv_transpose linear linear_activation matmul einsum avg_pool max_pool l2_pool
        batch_norm layer_norm instance_norm l2_norm local_response_norm
        abs add sub mul real_div floor_div pow square sqrt rsqrt inverse maximum minimum
        equal not_equal greater greater_equal less less_equal logical_not select
        relu relu6 leaky_relu prelu clamped_relu thresholded_relu threshold clip elu sigmoid sigmoid_hard
        tanh scaled_tanh gelu silu softmax softplus softplus_parametric softsign
        erf exp exp2 log sign ceil floor round atan
        reduce_sum reduce_mean reduce_max reduce_min reduce_sum_square reduce_l1_norm reduce_l2_norm
        reduce_log_sum reduce_log_sum_exp reduce_argmax
        reshape reshape_like expand_dims squeeze flatten2d transpose concat split stack pad
        slice_by_size slice_by_index slice_update reverse tile crop identity fill fill_like
        depth_to_space space_to_depth pixel_shuffle pixel_unshuffle space_to_batch batch_to_space
        cast quantize dequantize scaled_dot_product_attention
    """,
    "nnnn": """
        reduce_prod mod logical_and logical_or logical_xor reverse_sequence band_part non_zero one_hot shape
        sliding_windows tan asin acos atanh asinh acosh sinh cosh range_1d non_maximum_suppression
        random_bernoulli random_categorical random_normal
    """,
    "nnyy": "sin cos random_uniform",
    "??yy": "reduce_argmin",
    "?yyy": "resize resize_bilinear resize_nearest_neighbor upsample_bilinear upsample_nearest_neighbor",
    "nyyy": "crop_resize resample affine",
    "????": "cumsum",
}
ENGINE: dict[str, str] = {kind: letters for letters, kinds in _TABLE.items() for kind in kinds.split()}
RECURRENT = frozenset({"gru", "lstm", "rnn"})
CONTROL = frozenset({"while_loop", "cond", "call"})
LISTS = frozenset({"make_list", "list_gather", "list_length", "list_read", "list_scatter", "list_write"})
SCATTERS = frozenset({"scatter", "scatter_nd", "scatter_along_axis"})
GATHERS = frozenset({"gather", "gather_nd", "gather_along_axis"})
SORTS = frozenset({"topk", "argsort"})
STATES = frozenset({"read_state", "write_state"})
OWN_RULE = RECURRENT | CONTROL | LISTS | SCATTERS | GATHERS | SORTS | STATES


def support(kind: str, family: str | None) -> str:
    """``y``, ``n``, ``?`` (nobody knows) or ``chip`` (generations differ) for a type; empty = no row."""
    letters = ENGINE.get(kind, "")
    if family is not None and letters:
        return letters[FAMILIES.index(family)]
    return letters[0] if len(set(letters)) == 1 else ("chip" if letters else "")


def limit(by_family: tuple[int, int, int, int], family: str | None) -> tuple[int, int]:
    """Smallest and largest limit of the generations that matter: fits to the first, fails over the second."""
    if family is not None:
        only = by_family[FAMILIES.index(family)]
        return only, only
    return min(by_family), max(by_family)
