"""Catalogue of what the zoo can refuse."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-MODEL-001": (
        "Unknown architecture name",
        "The name is not in the zoo and no installed plugin provides it. `rubicc models list` prints "
        "every name; the message names the nearest one.",
    ),
    "RUB-MODEL-002": (
        "Impossible architecture configuration",
        "A value of the configuration has the right type and cannot work: an even kernel (output frames "
        "would no longer be the ceiling of samples / stride), a width that is not a multiple of the "
        "group size, a quantised network with an activation that has no quantised form. The message "
        "gives the field, the value and the rule."
        " Change it accordingly; `rubicc models show NAME` prints a configuration that works.",
    ),
    "RUB-MODEL-003": (
        "Configuration value of the wrong type",
        "A configuration read from JSON, TOML or a checkpoint holds a value of another type than the "
        "field takes. Values are never converted silently (the string '3' is not 3). The message gives "
        "the field and the type."
        " Write the value in that type.",
    ),
    "RUB-MODEL-004": (
        "Model plugin could not be loaded",
        "An installed package announces an architecture under the entry-point group `rubicc.models` and "
        "importing it failed or gave something else than a ModelEntry. Mend or uninstall that package, "
        "or set RUBICC_PLUGINS=0 to work without plugins.",
    ),
}
