"""The GRU layer with a backward pass of its own, for CPUs.

torch's CPU kernel leaves the backward pass to autograd, which runs some twenty small operations per step and
multiplies the weights' gradient step by step. Here all that does not wait for the step before is computed for
the whole sequence at once: a step costs one matrix product and two element-wise operations, and each weight's
gradient is a single product over all steps. (torch's LSTM has a kernel of oneDNN's on CPUs, which is faster.)

Shapes: ``x`` (T, N, C), ``w`` (3H, C), ``r`` (3H, H), biases (3H,), states (N, H); gates as in ONNX: z r h.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable


def _parts(x: Tensor, size: int) -> list[Tensor]:
    """Views of the gates along the last axis."""
    return [x[..., at : at + size] for at in range(0, x.shape[-1], size)]


def _projected(x: Tensor, w: Tensor, bias: Tensor) -> Tensor:
    steps, batch, width = x.shape
    return torch.addmm(bias, x.reshape(-1, width), w.t()).view(steps, batch, -1)


class Gru(torch.autograd.Function):
    """``h' = (1 - z) n + z h``, ``n = tanh(x + r (h R + b))``: the form with ``linear_before_reset``.

    Arguments: x, w, r, input bias, recurrent bias, first state. Results: states (T, N, H), last state (N, H).
    """

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(
        ctx: Any, x: Tensor, w: Tensor, r: Tensor, bias: Tensor, inner: Tensor, first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See the class."""
        size, steps = r.shape[1], x.shape[0]
        gates = _projected(x, w, bias)
        back = torch.empty_like(gates)
        states = gates.new_empty((steps + 1, *first.shape))
        states[0] = first
        update, _, new = (part.unbind(0) for part in _parts(gates, size))
        reset = gates[..., size : 2 * size].unbind(0)
        both, back_both = gates[..., : 2 * size].unbind(0), back[..., : 2 * size].unbind(0)
        rows, back_new, h = back.unbind(0), back[..., 2 * size :].unbind(0), states.unbind(0)
        turned = r.t()
        for t in range(steps):
            torch.addmm(inner, h[t], turned, out=rows[t])
            both[t].add_(back_both[t]).sigmoid_()
            new[t].addcmul_(reset[t], back_new[t]).tanh_()
            torch.lerp(new[t], h[t], update[t], out=h[t + 1])
        ctx.save_for_backward(x, w, r, gates, back, states)
        return states[1:], states[-1].clone()

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(  # type: ignore[override]
        ctx: Any, to_y: Tensor, to_last: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients by argument."""
        x, w, r, gates, back, states = ctx.saved_tensors
        size, (steps, batch, _) = r.shape[1], x.shape
        z, reset, new = _parts(gates, size)
        factor = (1 - z) * (1 - new * new)
        slopes = gates.new_empty((steps, batch, 3, size))
        torch.mul((states[:-1] - new) * z, 1 - z, out=slopes[:, :, 0])
        torch.mul(factor, reset, out=slopes[:, :, 2])
        torch.mul(slopes[:, :, 2] * (1 - reset), back[..., 2 * size :], out=slopes[:, :, 1])
        # to_h[t]: gradient of the state after t steps; slopes become the gates' gradients in place
        to_h = gates.new_empty((steps + 1, batch, size))
        torch.add(to_y[-1], to_last, out=to_h[-1])
        rows, columns, slope = to_h.unbind(0), to_h.unsqueeze(2).unbind(0), slopes.unbind(0)
        flat, keep, given = slopes.view(steps, batch, -1).unbind(0), z.unbind(0), to_y.unbind(0)
        for t in range(steps - 1, -1, -1):
            slope[t].mul_(columns[t + 1])
            if t:
                torch.addcmul(given[t - 1], rows[t + 1], keep[t], out=rows[t])
            else:
                torch.mul(rows[1], keep[0], out=rows[0])
            rows[t].addmm_(flat[t], r)
        to_gates = slopes.view(steps * batch, -1)
        to_r, to_inner = to_gates.t() @ states[:-1].view(steps * batch, -1), to_gates.sum(0)
        torch.mul(to_h[1:], factor, out=slopes[:, :, 2])
        return *_to_input(ctx, to_gates, x, w), to_r, to_gates.sum(0), to_inner, to_h[0]


def _to_input(ctx: Any, to_gates: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor | None, Tensor]:
    """Gradients of ``x`` and ``w``; none of a signal nobody asks about."""
    to_x = (to_gates @ w).view(x.shape) if ctx.needs_input_grad[0] else None
    return to_x, to_gates.t() @ x.reshape(-1, x.shape[-1])
