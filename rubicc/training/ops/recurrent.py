"""LSTM, GRU and RNN: torch's fused kernels where the form allows, a loop over time elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rubicc.ir.ops.recurrent import GATES
from rubicc.ir.ops.registry import KernelError
from rubicc.training.ops.gru import Gru
from rubicc.training.ops.index import turned
from rubicc.training.ops.registry import Run, Site, op

# ONNX orders the gates z r h and i o f c, torch r z n and i f g o.
_ORDER = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1), "RNN": (0,)}
_DEFAULT = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softsign": functional.softsign,
    "softplus": functional.softplus,
    "hardsigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
}
State = tuple[Tensor, ...]


@dataclass(frozen=True)
class _Form:
    """What is fixed about a recurrent node.

    Attributes:
        activations: of one direction, lower case.
        fused: name of torch's kernel, or empty where none computes this form.
    """

    kind: str
    directions: int
    size: int
    reverse: bool
    batch_first: bool
    before_reset: bool
    activations: tuple[list[str], ...]
    fused: str

    @property
    def states(self) -> int:
        """States a cell carries."""
        return 2 if self.kind == "LSTM" else 1


def _form(site: Site) -> _Form:
    kind, w, r = site.node.op_type, site.tensor_of(1), site.tensor_of(2)
    if site.attr("input_forget", 0):
        raise KernelError("LSTM with coupled input and forget gates is not implemented")
    if site.attr("activation_alpha") or site.attr("activation_beta") or site.attr("clip"):
        raise KernelError(f"{kind} with clip or activation parameters is not implemented")
    directions, size, per = w.shape[0], r.shape[2], len(_DEFAULT[kind])
    if w.shape[1] != GATES[kind] * size:
        raise KernelError(f"{kind} weight {tuple(w.shape)} does not hold {GATES[kind]} gates of {size}")
    names = [n.lower() for n in site.attr("activations") or _DEFAULT[kind] * directions]
    unknown = [n for n in names if n not in _ACTIVATIONS]
    if unknown:
        raise KernelError(f"{kind} activation {unknown[0]} is not implemented")
    each = tuple(names[d * per : (d + 1) * per] for d in range(directions))
    before_reset = bool(site.attr("linear_before_reset", 0))
    fused = ""
    if all(names == _DEFAULT[kind] for names in each) and not site.has(7):
        fused = {"LSTM": "lstm", "RNN": "rnn_tanh"}.get(kind, "gru" if before_reset else "")
    elif kind == "RNN" and all(names == ["relu"] for names in each):
        fused = "rnn_relu"
    return _Form(
        kind,
        directions,
        size,
        site.attr("direction", "forward") == "reverse",
        bool(site.attr("layout", 0)),
        before_reset,
        each,
        fused,
    )


@op("LSTM", "GRU", "RNN")
def recurrent(site: Site) -> Run:
    """Outputs Y (T, D, N, H), Y_h (D, N, H) and for LSTM Y_c, or batch-first under ``layout=1``."""
    form = _form(site)
    x = site.tensor_of(0)
    steps, batch = (x.shape[1], x.shape[0]) if form.batch_first else (x.shape[0], x.shape[1])
    known = site.known(4)
    full = not site.has(4) or (known is not None and bool((known == steps).all()))
    zeros = torch.zeros((form.directions, batch, form.size), dtype=site.tensor_of(1).dtype, device=x.device)
    own = form.fused == "gru" and full and x.device.type == "cpu" and site.has(3) and not site.second_order
    layers = partial(_own_gru if own else _fused if form.fused else _looped, form)

    def run(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        b: Tensor | None = None,
        lengths: Tensor | None = None,
        h: Tensor | None = None,
        c: Tensor | None = None,
        peepholes: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        if x.dtype != w.dtype:  # under autocast: the kernels want one type
            x = x.to(w.dtype)
        given = (h, c)[: form.states]
        if form.batch_first:
            x = x.transpose(0, 1)
            given = tuple(s if s is None else s.transpose(0, 1).contiguous() for s in given)
        states = tuple(zeros if s is None else s for s in given)
        y, *finals = layers(x, w, r, b, states, None if full else lengths, peepholes)
        if form.batch_first:
            return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in finals)
        return y, *finals

    return run


def _gates(kind: str, weight: Tensor) -> Tensor:
    """Rows of ``weight`` (gates * H, ...) from ONNX's order into torch's."""
    order = _ORDER[kind]
    if len(order) == 1:
        return weight
    parts = weight.chunk(len(order))
    return torch.cat([parts[i] for i in order])


def _flat_weights(form: _Form, w: Tensor, r: Tensor, b: Tensor | None) -> list[Tensor]:
    flat = []
    for d in range(form.directions):
        flat += [_gates(form.kind, w[d]), _gates(form.kind, r[d])]
        if b is not None:
            flat += [_gates(form.kind, half) for half in b[d].chunk(2)]
    return flat


def _fused(
    form: _Form,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    states: State,
    lengths: Tensor | None,
    _: Tensor | None,
) -> tuple[Tensor, ...]:
    """One kernel for the whole sequence; a lone backward direction is the forward one of the turned input."""
    kernel: Callable[..., Any] = getattr(torch._VF, form.fused)
    flat = _flat_weights(form, w, r, b)
    # Without dropout "training" changes no number; cuDNN keeps what its backward pass needs only then.
    rest = flat, b is not None, 1, 0.0, torch.is_grad_enabled(), form.directions == 2
    first: Any = list(states) if form.states == 2 else states[0]
    if lengths is None:
        y, *finals = kernel(x.flip(0) if form.reverse else x, first, *rest, False)
        y = y.flip(0) if form.reverse else y
    else:
        y, finals = _packed(kernel, form, x, states, lengths.long(), rest)
    shape = (*y.shape[:2], form.directions, form.size)
    return y.view(shape).permute(0, 2, 1, 3), *finals


def _own_gru(
    form: _Form, x: Tensor, w: Tensor, r: Tensor, b: Tensor, states: State, *_: Tensor | None
) -> tuple[Tensor, ...]:
    """Whole sequences on a CPU: the layer with its own backward pass, one direction after the other."""
    ys, lasts = [], []
    for d in range(form.directions):
        turn = form.reverse or d == 1
        bias, inner = b[d].chunk(2)
        y, last = Gru.apply(x.flip(0) if turn else x, w[d], r[d], bias, inner, states[0][d])
        ys.append(y.flip(0) if turn else y)
        lasts.append(last)
    if form.directions == 1:
        return ys[0].unsqueeze(1), lasts[0].unsqueeze(0)
    return torch.stack(ys, 1), torch.stack(lasts)


def _packed(
    kernel: Callable[..., Any], form: _Form, x: Tensor, states: State, lengths: Tensor, rest: tuple[Any, ...]
) -> tuple[Tensor, list[Tensor]]:
    """As :func:`_fused` for sequences of their own lengths; one of length 0 keeps its state and gives 0."""
    x = turned(x, lengths) if form.reverse else x
    # the packed form has no empty sequences: those run one step, and what it gave is put aside below
    packed = pack_padded_sequence(x, lengths.clamp_min(1).cpu(), enforce_sorted=False)
    order, back = packed.sorted_indices, packed.unsorted_indices
    assert order is not None and back is not None
    inner = [s.index_select(1, order) for s in states]
    first: Any = inner if form.states == 2 else inner[0]
    data, *finals = kernel(packed.data, packed.batch_sizes, first, *rest)
    y, _ = pad_packed_sequence(packed._replace(data=data), total_length=x.shape[0])
    alive = (lengths > 0)[:, None]
    y = torch.where(alive, y, 0.0)
    finals = [torch.where(alive, f.index_select(1, back), s) for f, s in zip(finals, states, strict=True)]
    return (turned(y, lengths) if form.reverse else y), finals


def _looped(
    form: _Form,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    states: State,
    lengths: Tensor | None,
    peepholes: Tensor | None,
) -> tuple[Tensor, ...]:
    """Step by step, for the forms torch has no kernel for."""
    width = w.shape[1]
    bias = x.new_zeros((form.directions, 2 * width)) if b is None else b
    lengths = None if lengths is None else lengths.long()
    ys, finals = [], []
    for d in range(form.directions):
        turn = form.reverse or d == 1
        turned_x = x if not turn else x.flip(0) if lengths is None else turned(x, lengths)
        fixed, inner = bias[d].chunk(2)
        cell = partial(
            _CELLS[form.kind],
            form,
            [_ACTIVATIONS[name] for name in form.activations[d]],
            r[d].t(),
            inner,
            None if peepholes is None else peepholes[d].chunk(3),
        )
        projected = functional.linear(turned_x, w[d], fixed if form.kind == "GRU" else fixed + inner)
        y, final = _scan(cell, projected, tuple(s[d] for s in states), lengths)
        ys.append(y if not turn else y.flip(0) if lengths is None else turned(y, lengths))
        finals.append(final)
    return torch.stack(ys, 1), *(torch.stack([f[k] for f in finals]) for k in range(form.states))


def _scan(
    cell: Callable[[Tensor, State], State], x: Tensor, state: State, lengths: Tensor | None
) -> tuple[Tensor, State]:
    """Past a sequence's end the state stays and the output is 0."""
    rows = []
    for t, step in enumerate(x.unbind(0)):
        new = cell(step, state)
        if lengths is None:
            state = new
            rows.append(new[0])
        else:
            alive = (t < lengths)[:, None]
            state = tuple(torch.where(alive, a, s) for a, s in zip(new, state, strict=True))
            rows.append(torch.where(alive, new[0], 0.0))
    return torch.stack(rows), state


def _lstm_cell(
    form: _Form,
    functions: list[Callable[[Tensor], Tensor]],
    weight: Tensor,
    _: Tensor,
    peepholes: State | None,
    x: Tensor,
    state: State,
) -> State:
    h, c = state
    f, g, out = functions
    i, o, forget, candidate = (x + h @ weight).chunk(4, 1)
    if peepholes is not None:
        i, forget = i + peepholes[0] * c, forget + peepholes[2] * c
    c = f(forget) * c + f(i) * g(candidate)
    o = o if peepholes is None else o + peepholes[1] * c
    return f(o) * out(c), c


def _gru_cell(
    form: _Form,
    functions: list[Callable[[Tensor], Tensor]],
    weight: Tensor,
    bias: Tensor,
    _: State | None,
    x: Tensor,
    state: State,
) -> State:
    (h,) = state
    f, g = functions
    split = 2 * form.size
    z, r = f(x[:, :split] + h @ weight[:, :split] + bias[:split]).chunk(2, 1)
    inner, offset = weight[:, split:], bias[split:]
    hidden = r * (h @ inner + offset) if form.before_reset else (r * h) @ inner + offset
    return ((1 - z) * g(x[:, split:] + hidden) + z * h,)


def _rnn_cell(
    form: _Form,
    functions: list[Callable[[Tensor], Tensor]],
    weight: Tensor,
    _: Tensor,
    __: State | None,
    x: Tensor,
    state: State,
) -> State:
    return (functions[0](x + state[0] @ weight),)


_CELLS: dict[str, Callable[..., State]] = {"LSTM": _lstm_cell, "GRU": _gru_cell, "RNN": _rnn_cell}
