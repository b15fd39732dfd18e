"""bonito's CRF family (convolutions, LSTMs, linear CRF head) in the zoo's terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_TIME_FIRST = [2, 0, 1]


def crf_layout(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Configuration of the zoo's CRF network, and bonito's module names mapped to its own.

    Raises:
        KeyError, TypeError, ValueError, IndexError: a layer or order the zoo's network does not have.
    """
    if config["input"]["features"] != 1:
        raise ValueError(f"{config['input']['features']} input features")
    encoder = config["encoder"]
    layers = list(_flatten(encoder, "encoder")) if "type" in encoder else list(_short_form(config))
    reader = _Layers()
    for name, layer in layers:
        reader.take(name, layer)
    settings = {
        **reader.finish(),
        "state_len": config["global_norm"]["state_len"],
        "alphabet": "".join(config["labels"]["labels"]),
    }
    return settings, reader.names


def _flatten(layer: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Layers with the names that torch gives them inside nested sequences."""
    kind = layer["type"]
    if kind == "serial":
        for index, child in enumerate(layer["sublayers"]):
            yield from _flatten(child, f"{name}.{index}")
    elif kind == "namedserial":
        for key, child in layer.items():
            if key != "type":
                yield from _flatten(child, f"{name}.{key}")
    elif kind == "stack":
        for index in range(layer["depth"]):
            yield from _flatten(layer["layer"], f"{name}.{index}")
    else:
        yield name, layer


def _short_form(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The layers that bonito builds from the short [encoder] section, with its defaults."""
    given = dict(config["encoder"])
    defaults: dict[str, Any] = {
        **{"first_conv_size": 4, "stride": 5, "winlen": 19, "activation": "swish", "rnn_type": "lstm"},
        **{"features": 768, "scale": 5.0, "blank_score": None, "expand_blanks": True, "num_layers": 5},
        "norm": None,
    }
    unknown = set(given) - set(defaults)
    if unknown:
        raise ValueError(f"unknown encoder settings {sorted(unknown)}")
    use = defaults | given
    width = use["features"]
    rows = (
        (use["first_conv_size"], 5, 1),
        (16, 5, 1),
        (width, use["winlen"], use["stride"]),
    )
    for index, (size, window, stride) in enumerate(rows):
        conv = {"size": size, "winlen": window, "stride": stride, "padding": window // 2, "bias": True}
        yield (
            f"encoder.{index}",
            {"type": "convolution", "activation": use["activation"], "norm": use["norm"], **conv},
        )
    yield "encoder.3", {"type": "permute", "dims": _TIME_FIRST}
    for index in range(use["num_layers"]):
        reverse = (use["num_layers"] - index) % 2 == 1
        yield f"encoder.{4 + index}", {"type": use["rnn_type"], "size": width, "reverse": reverse}
    head = {key: use[key] for key in ("scale", "blank_score", "expand_blanks")}
    yield f"encoder.{4 + use['num_layers']}", {"type": "linearcrfencoder", "activation": "tanh", **head}


class _Layers:
    """Takes bonito's layers in order; each kind may only come where the zoo's network has it."""

    def __init__(self) -> None:
        self.convs: list[dict[str, Any]] = []
        self.lstms: list[dict[str, Any]] = []
        self.head: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.time_first = False

    def take(self, name: str, layer: Mapping[str, Any]) -> None:
        """Add one layer or raise ValueError."""
        kind = layer["type"]
        handler = {
            "convolution": self.convolution,
            "clamp": self.clamp,
            "permute": self.permute,
            "lstm": self.lstm,
            "linear": self.linear,
            "linearcrfencoder": self.crf,
        }.get(kind)
        if handler is None:
            raise ValueError(f"layer {kind!r} is not part of the CRF family")
        if "head_bias" in self.head and kind != "clamp":
            raise ValueError(f"layer {kind!r} after the head")
        handler(name, layer)

    def convolution(self, name: str, layer: Mapping[str, Any]) -> None:
        if self.time_first:
            raise ValueError("convolution after the recurrent layers began")
        if layer.get("padding", 0) != layer["winlen"] // 2:
            raise ValueError(f"padding {layer.get('padding', 0)} of a window of {layer['winlen']}")
        norm, eps = _norm(layer.get("norm"))
        target = f"stem.{len(self.convs)}"
        self.names[f"{name}.conv"] = f"{target}.conv"
        self.names[f"{name}.norm.bn"] = f"{target}.norm"
        self.convs.append(
            {
                "filters": layer["size"],
                "kernel": layer["winlen"],
                "stride": layer.get("stride", 1),
                "bias": layer.get("bias", True),
                "norm": norm,
                "norm_eps": eps,
                "activation": layer.get("activation"),
            }
        )

    def clamp(self, name: str, layer: Mapping[str, Any]) -> None:
        limits = [layer["min"], layer["max"]]
        after_head = "head_bias" in self.head
        target = self.head if after_head else (self.convs[-1] if self.convs and not self.time_first else None)
        if target is None or "clamp" in target:
            raise ValueError("clamp at a place the CRF family does not have")
        target["clamp"] = limits

    def permute(self, name: str, layer: Mapping[str, Any]) -> None:
        if self.time_first or list(layer["dims"]) != _TIME_FIRST:
            raise ValueError(f"permutation {layer['dims']!r}")
        self.time_first = True

    def lstm(self, name: str, layer: Mapping[str, Any]) -> None:
        if not self.time_first or self.head:
            raise ValueError("LSTM before the sequence is laid out time first, or after the head")
        self.names[f"{name}.rnn"] = f"lstm.{len(self.lstms)}"
        self.lstms.append(
            {"size": layer["size"], "reverse": bool(layer.get("reverse")), "bias": layer.get("bias", True)}
        )

    def linear(self, name: str, layer: Mapping[str, Any]) -> None:
        if not self.lstms or self.head:
            raise ValueError("linear layer at a place the CRF family does not have")
        self.names[f"{name}.linear"] = "bottleneck"
        self.head = {"bottleneck": layer["out_features"], "bottleneck_bias": layer.get("bias", True)}

    def crf(self, name: str, layer: Mapping[str, Any]) -> None:
        if not self.lstms or layer.get("permute") is not None:
            raise ValueError("CRF head at a place the CRF family does not have")
        self.names[f"{name}.linear"] = "head"
        self.head |= {
            "head_bias": layer.get("bias", True),
            "head_activation": layer.get("activation"),
            "scale": _float(layer.get("scale")),
            "blank_score": _float(layer.get("blank_score")),
            "expand_blanks": layer.get("expand_blanks", True),
        }

    def finish(self) -> dict[str, Any]:
        """The collected configuration."""
        if "head_bias" not in self.head:
            raise ValueError("no CRF head")
        return {"convs": self.convs, "lstms": self.lstms, **self.head}


def _norm(value: Any) -> tuple[str | None, float]:
    if value is None:
        return None, 1e-5
    if value == "batchnorm":
        return "batchnorm", 1e-5
    if isinstance(value, Mapping) and value.get("type") == "batchnorm":
        return "batchnorm", float(value.get("eps", 1e-5))
    raise ValueError(f"norm {value!r:.60}")


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
