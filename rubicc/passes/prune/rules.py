"""One table: how the labels of axes pass through each operator (by operator key)."""

from __future__ import annotations

from rubicc.passes.prune.cutting import CUTTING
from rubicc.passes.prune.moving import MOVING
from rubicc.passes.prune.pointwise import POINTWISE
from rubicc.passes.prune.products import PRODUCTS
from rubicc.passes.prune.walk import Rule

RULES: dict[str, Rule] = {**POINTWISE, **MOVING, **CUTTING, **PRODUCTS}
