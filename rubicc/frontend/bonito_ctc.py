"""bonito's CTC family (QuartzNet blocks) in the zoo's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_PER_CELL = 4  # bonito lists convolution, norm, activation and dropout of every cell in one sequence


def ctc_layout(
    config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Configuration of the zoo's CTC network, and bonito's module names mapped to its own.

    The number of channels per group of the time convolutions is not in the configuration (released bonito
    is depthwise, RUBICON's fork has 8), so it is read off the weights.

    Raises:
        KeyError, TypeError, ValueError, IndexError: the configuration lacks something or has another form.
    """
    if config["input"]["features"] != 1:
        raise ValueError(f"{config['input']['features']} input features")
    blocks, names = [], {}
    group_sizes = set()
    for index, row in enumerate(config["block"]):
        source, target = f"encoder.encoder.{index}", f"blocks.{index}"
        blocks.append(_block(row))
        for cell in range(row["repeat"]):
            conv, norm = f"{source}.conv.{_PER_CELL * cell}", f"{source}.conv.{_PER_CELL * cell + 1}"
            if row["separable"]:
                names[f"{conv}.depthwise"] = f"{target}.cells.{cell}.conv.grouped"
                names[f"{conv}.pointwise"] = f"{target}.cells.{cell}.conv.pointwise"
                if f"{conv}.depthwise.weight" in tensors:
                    group_sizes.add(tensors[f"{conv}.depthwise.weight"].shape[1])
            else:
                names[f"{conv}.conv"] = f"{target}.cells.{cell}.conv"
            names[norm] = f"{target}.cells.{cell}.norm"
        if row["residual"]:
            names[f"{source}.residual.0.conv"] = f"{target}.skip.conv"
            names[f"{source}.residual.1"] = f"{target}.skip.norm"
    names["decoder.layers.0"] = "head"
    if len(group_sizes) > 1:
        raise ValueError(f"time convolutions of {sorted(group_sizes)} channels per group in one network")
    settings = {
        "blocks": blocks,
        "activation": config["encoder"]["activation"],
        "channels_per_group": group_sizes.pop() if group_sizes else 1,
        "alphabet": "".join(config["labels"]["labels"]),
    }
    return settings, names


def _block(row: Mapping[str, Any]) -> dict[str, Any]:
    single = {key: row[key] for key in ("kernel", "stride", "dilation")}
    for key, value in single.items():
        if not isinstance(value, list) or len(value) != 1:
            raise ValueError(f"{key} = {value!r} is not a list of one number")
    return {
        **{key: value[0] for key, value in single.items()},
        **{key: row[key] for key in ("filters", "repeat", "residual", "separable", "dropout")},
    }
