"""Every hostile and malformed model we know, as data: name, how to make it, which error it must get.

``from hostile import CASES``; each :class:`~hostile_base.Case` writes its file into a folder of yours. The
command-line tests run the same table through ``rubicc inspect``.
"""

from __future__ import annotations

import hostile_folders
import hostile_pt2
import hostile_torch
from hostile_base import HARMLESS, Case

CASES: tuple[Case, ...] = hostile_torch.CASES + hostile_pt2.CASES + hostile_folders.CASES
__all__ = ["CASES", "HARMLESS", "Case"]
