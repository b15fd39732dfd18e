"""Normalisations and dropout: what differs between training and inference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rubicc.ir.ops.registry import KernelError
from rubicc.training.ops.registry import Run, Site, op


@op("BatchNormalization")
def batch_norm(site: Site) -> Run:
    """Running statistics in eval mode; batch statistics, which move the running ones, in train mode.

    As torch does, the running variance takes the unbiased variance of the batch; the ``momentum`` of ONNX is
    the share the old value keeps, 0.9 by default.
    """
    if site.attr("training_mode", 0):
        raise KernelError("BatchNormalization in training mode; the twin itself decides the mode")
    epsilon, momentum = site.attr("epsilon", 1e-5), 1.0 - site.attr("momentum", 0.9)
    training = site.training and site.statistics

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, variance, scale, bias, training, momentum, epsilon)

    return run


def _scaled(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    y = y * scale
    return y if bias is None else y + bias


@op("LayerNormalization")
def layer_norm(site: Site) -> Run:
    """Normalisation over the axes from ``axis`` on; Y, and Mean and InvStdDev where they are read."""
    axis, epsilon = site.attr("axis", -1) % site.rank, site.attr("epsilon", 1e-5)
    shape = site.tensor_of(0).shape[axis:]
    plain = site.tensor_of(1).shape == shape and (not site.has(2) or site.tensor_of(2).shape == shape)
    axes = tuple(range(axis, site.rank))

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        if plain:
            return functional.layer_norm(x, shape, scale, bias, epsilon)
        return _scaled(functional.layer_norm(x, shape, None, None, epsilon), scale, bias)

    def full(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        return run(x, scale, bias), mean, torch.rsqrt(variance + epsilon)

    return full if any(value.uses() for value in site.node.outputs[1:]) else run


@op("RMSNormalization")
def rms_norm(site: Site) -> Run:
    """Division by the root mean square over the axes from ``axis`` on."""
    axes = tuple(range(site.attr("axis", -1) % site.rank, site.rank))
    epsilon = site.attr("epsilon", 1e-5)
    return lambda x, scale: x * torch.rsqrt((x * x).mean(axes, keepdim=True) + epsilon) * scale


@op("InstanceNormalization", "GroupNormalization")
def group_norm(site: Site) -> Run:
    """Normalisation over groups of channels; one channel per group for instances."""
    channels = site.tensor_of(0).shape[1]
    instance = site.node.op_type == "InstanceNormalization"
    groups, epsilon = (channels if instance else site.attr("num_groups")), site.attr("epsilon", 1e-5)
    repeat = channels // groups if site.tensor_of(1).numel() != channels else 1  # opset 18: one per group

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if repeat != 1:
            scale, bias = scale.repeat_interleave(repeat), bias.repeat_interleave(repeat)
        return functional.group_norm(x, groups, scale, bias, epsilon)

    return run


@op("Dropout")
def dropout(site: Site) -> Run:
    """Acts in train mode at the node's ratio (0.5 where it has none); the identity in eval mode."""
    known = site.get(1)
    ratio = site.attr("ratio", 0.5) if known is None else float(known.reshape(-1)[0])
    if any(value.uses() for value in site.node.outputs[1:]):
        raise KernelError("Dropout with a used mask output is not implemented")
    if not site.training or ratio == 0.0:
        return lambda x, *_: x
    return lambda x, *_: functional.dropout(x, ratio, True)
