"""``python:pkg.module:factory``: the user's own code, run only when they say so."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from rubicc.errors import ModelRefused, RubiccError, UsageError
from rubicc.evidence.decision import Decision
from rubicc.frontend.source import Source
from rubicc.spec import ModelMeta
from rubicc.text import first_line

if TYPE_CHECKING:
    import torch

PREFIX = "python:"
_FORM = re.compile(r"python:([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)


def read(text: str, *, allow_code: bool) -> Source:
    """Import the module (the working folder is searched too), call the factory without arguments.

    Raises:
        UsageError: RUB-READ-070 without ``allow_code``, -071 wrong form or nothing of that name.
        ModelRefused: RUB-READ-072 when the factory raises or returns something else.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(
            "RUB-READ-071",
            "not of the form python:pkg.module:factory",
            where=text[:120],
            hint="python:mypkg.nets:make",
        )
    if not allow_code:
        raise UsageError(
            "RUB-READ-070",
            "this form imports and calls Python code",
            where=text,
            hint="give --allow-code if it is yours",
        )
    factory = _find(match[1], match[2], text)
    try:
        made = factory()
    except RubiccError:
        raise
    except Exception as err:  # the user's code may raise anything
        raise ModelRefused(
            "RUB-READ-072",
            f"the factory raised {type(err).__name__}: {first_line(err)}",
            where=text,
            hint="mend it",
        ) from err
    module, meta = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    source = from_module(module, name=match[2], where=text, meta=meta)
    source.decisions.append(Decision("RUB-READ-D05", text, "imported and called", "--allow-code was given"))
    return source


def _find(module_name: str, attribute: str, where: str) -> Any:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as err:  # importing runs the user's code, which may raise anything
        raise UsageError(
            "RUB-READ-071",
            f"cannot import {module_name}: {first_line(err)}",
            where=where,
            hint="check PYTHONPATH",
        ) from err
    finally:
        sys.path.remove(folder)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        kind = "is missing" if factory is None else f"is a {type(factory).__name__}"
        raise UsageError("RUB-READ-071", f"{attribute} {kind}", where=where, hint="name a function or class")
    return factory


def from_module(module: Any, *, name: str, where: str, meta: Any = None) -> Source:
    """An eager module as a Source, in eval mode; its digest is that of its tensors.

    Raises:
        ModelRefused: RUB-READ-072 when it is no module, -014 when a weight is not finite.
    """
    import torch

    if not isinstance(module, torch.nn.Module) or (meta is not None and not isinstance(meta, ModelMeta)):
        raise ModelRefused(
            "RUB-READ-072",
            f"got {type(module).__name__}, not a torch.nn.Module",
            where=where,
            hint="return a module",
        )
    from rubicc.frontend.fit import finite

    for key, value in module.state_dict().items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not finite(value):
            raise ModelRefused(
                "RUB-READ-014",
                f"tensor {key!r} holds NaN or infinite values",
                where=where,
                hint="use other weights",
            )
    return Source(kind="python", name=name, sha256=module_sha256(module), meta=meta, module=module.eval())


def module_sha256(module: torch.nn.Module) -> str:
    """Digest over the module's structure as printed and its tensors in name order."""
    import torch

    total = hashlib.sha256(str(module).encode())
    for key, value in sorted(module.state_dict().items()):
        if isinstance(value, torch.Tensor):
            dense = value.detach().cpu().contiguous()
            total.update(f"\0{key}\0{dense.dtype}\0{tuple(dense.shape)}\0".encode())
            if dense.numel():
                total.update(dense.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
