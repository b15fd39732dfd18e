"""``python -m rubicc``: the same command as ``rubicc``."""

from __future__ import annotations

import sys

from rubicc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
