"""Catalogue of the target registry's codes (``RUB-TGT``)."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-TGT-001": (
        "Unknown target",
        "--target names no target of this installation. `rubicc targets` lists what is there, plugins "
        "included. A plugin is found only while RUBICC_PLUGINS is not 0.",
    ),
    "RUB-TGT-002": (
        "Unknown device of a target",
        "What stands behind the colon of --target T:device is not a device of T. `rubicc targets` lists the "
        "devices; leave the device out to get the target's default.",
    ),
    "RUB-TGT-003": (
        "A target plugin could not be loaded",
        "The target comes from an installed package (entry-point group rubicc.backends) whose import failed "
        "or which does not offer what a backend must offer. The reason stands in the message. Update or "
        "uninstall that package, or set RUBICC_PLUGINS=0; other targets are not affected.",
    ),
}
