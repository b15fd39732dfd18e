"""Taiyaki checkpoints: legacy whole-module pickles, read as data.

No class of the file is imported: layers stay :class:`~rubicc.frontend.pickles.Inert` records, the class
source text that old PyTorch put beside them is dropped unread, and the network is rebuilt as the zoo's
``taiyaki-mgru`` with stride, width and window length taken from the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rubicc.errors import ModelRefused
from rubicc.frontend import ptfile
from rubicc.frontend.fit import rebuilt
from rubicc.frontend.limits import DEFAULT, Limits
from rubicc.frontend.pickles import TENSOR_GLOBALS, Global, Inert
from rubicc.frontend.source import Source
from rubicc.text import printable

if TYPE_CHECKING:
    import torch

CLASSES = frozenset(
    {
        *(
            f"taiyaki.layers.{name}"
            for name in ("Serial", "Convolution", "Reverse", "GruMod", "GlobalNormFlipFlop")
        ),
        "taiyaki.activation.tanh",
        "torch.nn.modules.container.ModuleList",
        "torch.nn.modules.conv.Conv1d",
        "torch.nn.modules.linear.Linear",
        "torch.nn.modules.padding.ConstantPad1d",
        "torch.nn.modules.rnn.GRU",
    }
)
_TANH = Global("taiyaki.activation.tanh")
_HINT = "only convolution, GRUs running alternately backwards and forwards, and a flip-flop head are read"


def read(path: Path, limits: Limits = DEFAULT) -> Source:
    """The flip-flop network in ``path``.

    Raises:
        ModelRefused: RUB-READ-008 another global is wanted, -060 another network, -006, -011, -013 to -015.
    """
    root, wanted = ptfile.load_legacy(path, allowed=TENSOR_GLOBALS | CLASSES, limits=limits)
    if wanted:
        listed = ", ".join(wanted[:6])
        raise ModelRefused("RUB-READ-008", f"the pickle wants {listed}", where=path.name, hint=_HINT)
    try:
        config, tensors = _convert(root)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as err:
        raise ModelRefused(
            "RUB-READ-060",
            f"unknown taiyaki network: {printable(str(err), 200)}",
            where=path.name,
            hint=_HINT,
        ) from err
    return rebuilt("taiyaki", path, "taiyaki-mgru", config, tensors)


def _convert(root: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and tensors of ``taiyaki-mgru``; any deviation from that network raises ValueError."""
    layers = _layers(root)
    conv, grus, head = layers[0], layers[1:-1], layers[-1]
    tensors: dict[str, torch.Tensor] = {}
    config = _convolution(conv, tensors)
    for index, layer in enumerate(grus):
        backwards = index % 2 == 0
        if backwards:
            layer = _child(layer, "taiyaki.layers.Reverse", "layer")
        gru = _child(layer, "taiyaki.layers.GruMod", "cudnn_gru")
        _require(gru, {"bidirectional": False, "num_layers": 1, "hidden_size": config["size"], "bias": True})
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
            tensors[f"gru.{index}.{name}"] = gru.state["_parameters"][name]
    linear = _child(head, "taiyaki.layers.GlobalNormFlipFlop", "linear")
    if head.state.get("activation", _TANH) != _TANH:
        raise ValueError("the head's activation is not tanh")
    if head.state.get("nbase", 4) != 4:
        raise ValueError(f"{head.state['nbase']} bases")
    tensors["head.weight"] = linear.state["_parameters"]["weight"]
    tensors["head.bias"] = linear.state["_parameters"]["bias"]
    config |= {"layers": len(grus), "scale": float(head.state.get("scale", 5.0))}
    return config, tensors


def _convolution(layer: Inert, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The stem's configuration. The layer and the convolution inside it must say the same."""
    conv = _child(layer, "taiyaki.layers.Convolution", "conv")
    state = layer.state
    window, stride, size = state["winlen"], state["stride"], state["size"]
    if state["activation"] != _TANH or tuple(state["padding"]) != (window // 2, (window - 1) // 2):
        raise ValueError("the stem is not a padded convolution with tanh")
    inner = {"kernel_size": (window,), "stride": (stride,), "out_channels": size, "in_channels": 1}
    _require(conv, inner | {"groups": 1, "dilation": (1,), "padding": (0,)})
    pad = _child(layer, "taiyaki.layers.Convolution", "pad")
    _require(pad, {"padding": tuple(state["padding"]), "value": 0})
    tensors["conv.weight"] = conv.state["_parameters"]["weight"]
    tensors["conv.bias"] = conv.state["_parameters"]["bias"]
    return {"kernel": window, "stride": stride, "size": size}


def _layers(root: Any) -> list[Inert]:
    listed = _child(root, "taiyaki.layers.Serial", "sublayers").state["_modules"]
    layers = [listed[str(index)] for index in range(len(listed))]
    if len(layers) < 3:
        raise ValueError(f"{len(layers)} layers")
    return layers


def _child(layer: Any, cls: str, name: str) -> Inert:
    if not isinstance(layer, Inert) or layer.cls != cls:
        found = layer.cls if isinstance(layer, Inert) else type(layer).__name__
        raise ValueError(f"{found} where {cls} is needed")
    child = layer.state["_modules"][name]
    if not isinstance(child, Inert):
        raise ValueError(f"{cls}.{name} is a {type(child).__name__}")
    return child


def _require(layer: Inert, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if layer.state.get(name) != value:
            raise ValueError(f"{layer.cls}.{name} is {layer.state.get(name)!r}, not {value!r}")
