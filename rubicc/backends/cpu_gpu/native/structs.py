"""The C structs of ``kernels/program.h``, field by field in the same order."""

from __future__ import annotations

import ctypes

MAX_ACTIVATIONS = 6
KINDS = {"f32": 0, "bf16": 1, "u8": 2}
OPS = {"Conv": 0, "Recurrent": 1, "Elementwise": 2, "Gather": 3, "LogSoftmax": 4}
FUNCTIONS = {"relu": 0, "silu": 1, "tanh": 2, "sigmoid": 3, "gelu": 4, "clip": 5, "affine": 6}

_int, _double, _pointer = ctypes.c_int32, ctypes.c_double, ctypes.c_void_p


def _fields(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class BufferSpec(ctypes.Structure):
    """Where a value lives and how it is stored."""

    _fields_ = [
        *_fields(_int, "channels kind pad_before pad_after slot sequence zero_point reserved"),
        ("scale", _double),
    ]


class ActivationSpec(ctypes.Structure):
    """One elementwise function."""

    _fields_ = [*_fields(_int, "function reserved"), *_fields(_double, "a b")]


class StepSpec(ctypes.Structure):
    """One step; which fields count depends on ``op``."""

    _fields_ = [
        *_fields(
            _int, "op x y add compute phases vectors panels panels_per_group channels_out group_out words"
        ),
        *_fields(_int, "stride pad taps_first requantise zero_y activations output_zero reserved"),
        ("output_scale", _double),
        ("functions", ActivationSpec * MAX_ACTIVATIONS),
        *_fields(_pointer, "weights word_frame word_channel panel_channel scale bias index recurrent"),
        ("constant", _double),
    ]


class ProgramSpec(ctypes.Structure):
    """The whole program."""

    _fields_ = [
        *_fields(_pointer, "buffers steps"),
        *_fields(_int, "n_buffers n_steps n_slots input output layout_nct recurrent reserved"),
    ]


def check(library: ctypes.CDLL) -> None:
    """Both sides agree on the structs: a wrong field would read wild memory."""
    sizes = (ctypes.c_int32 * 3)()
    library.rb_layout(sizes)
    ours = [ctypes.sizeof(kind) for kind in (BufferSpec, StepSpec, ProgramSpec)]
    if list(sizes) != ours:
        raise AssertionError(f"kernels expect structs of {list(sizes)} bytes, not {ours}")
