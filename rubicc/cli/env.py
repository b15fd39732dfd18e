"""``rubicc env``: the block a bug report needs."""

from __future__ import annotations

import argparse
import os
from typing import Any

from rubicc.cli.console import Console, facts
from rubicc.text import clean


def configure(parser: argparse.ArgumentParser) -> None:
    """The verb has no arguments of its own."""


def run(args: argparse.Namespace, console: Console) -> int:
    """Print versions, machine, runtimes' providers and RUBICC_* variables."""
    from rubicc.evidence import environment

    value: dict[str, Any] = {
        "versions": environment.library_versions(environment.LIBRARIES + environment.READERS),
        "machine": environment.machine(),
        "cpu": environment.cpu(),
        "providers": _providers(),
        "plugins": _plugins(),
        "variables": {key: os.environ[key] for key in sorted(os.environ) if key.startswith("RUBICC_")},
    }
    flags = set(value["cpu"]["flags"])
    telling = [
        name
        for name in ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd")
        if name in flags
    ]
    lines = [
        *facts(value["versions"]),
        "",
        *facts(value["machine"] | {"cpu flags": " ".join(telling)}),
        "",
        *facts(value["providers"]),
    ]
    for plugin in value["plugins"]:
        lines.append(clean(f"plugin {plugin['name']} of {plugin['origin']}: {plugin['error'] or 'loads'}"))
    if value["variables"]:
        lines += ["", *facts(value["variables"])]
    console.result(value, lines)
    return 0


def _plugins() -> list[dict[str, str]]:
    """Plugins of every group, with the reason where one does not load."""
    from rubicc import plugins

    return [
        {"name": f"{group.group}:{row.id}", "origin": row.origin, "error": row.error}
        for group in plugins.groups()
        for row in group.rows()
    ]


def _providers() -> dict[str, str]:
    """Execution providers and devices the runtimes offer here; a failure is reported in place."""
    found = {}
    try:
        import onnxruntime

        found["onnxruntime"] = ", ".join(onnxruntime.get_available_providers())
    except Exception as error:  # a broken runtime is what a bug report is about
        found["onnxruntime"] = f"not usable: {type(error).__name__}: {error}"
    try:
        from rubicc.backends.cpu_gpu.templates.run import import_openvino

        found["openvino"] = ", ".join(import_openvino().Core().available_devices)
    except Exception as error:
        found["openvino"] = f"not usable: {type(error).__name__}: {error}"
    return found
