"""rubicc: from PyTorch genomic networks to the hardware they must run on.

``import rubicc`` is cheap: everything heavy is imported when first used.
"""

from __future__ import annotations

import os
from typing import Any

from rubicc.errors import RubiccError

# ONNX Runtime's wheels report every process and session to their maker, and leave an identifier in the cache
# folder, unless this is set before the library is loaded. Who wants that can set it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
__all__ = ["RubiccError", "__version__"]


def __getattr__(name: str) -> Any:
    """Public API, imported on first use (PEP 562)."""
    from importlib import import_module
    from importlib.util import find_spec

    # `from rubicc import plugins` asks here first; a module of ours must not cost the import of the API.
    if find_spec(f"{__name__}.{name}") is None:
        api = import_module("rubicc.api")
        if name in api.__all__:
            return getattr(api, name)
    raise AttributeError(f"module 'rubicc' has no attribute {name!r}")
