"""Catalogue of RUB-CLI codes: the command line, settings and recipes."""

from __future__ import annotations

CODES: dict[str, tuple[str, str]] = {
    "RUB-CLI-001": (
        "The command line cannot be understood",
        "A verb or flag is unknown, misspelt, or lacks its value. The message names the nearest one; "
        "`rubicc VERB --help` lists all of them. Flags cannot be abbreviated, so that scripts do not "
        "change meaning when a flag is added.",
    ),
    "RUB-CLI-002": (
        "Unknown setting",
        "A key in a recipe, in --set, or in a group such as --budget is not known. The message names the "
        "nearest known key. `rubicc init` writes a recipe with every key explained.",
    ),
    "RUB-CLI-003": (
        "An input specification cannot be read",
        "Write --input NAME=SHAPE[:DTYPE]: dimensions joined by x are positive numbers or symbols, as in "
        "x=Nx1xT:f32. Symbols that contain the letter x need commas: ids=N,max_len:i64. "
        "--shapes is fixed, enumerated or range, or numbers for an input: x=1x1x4000, several joined by "
        "commas, or ranges x=1..8x1x400..16000.",
    ),
    "RUB-CLI-004": (
        "A setting's value cannot be read",
        "The value has the wrong form, unit or range. Gaps: snr=30dB, max_abs=1e-4, identity=0.5 "
        "(percentage points). Budgets need a unit: latency=5ms, size=2MiB."
        " Write the value as in these examples; the message names the setting.",
    ),
    "RUB-CLI-005": (
        "A setting is given twice",
        "The same key appears in two flags, or in a flag and --set. Give it once. Flags do override the "
        "environment, the environment overrides the recipe, and the recipe overrides the defaults.",
    ),
    "RUB-CLI-006": (
        "A required flag is missing",
        "The verb needs a value that neither a flag, the environment nor the recipe gives."
        " Give the flag named in the message.",
    ),
    "RUB-CLI-010": (
        "A configuration file cannot be read",
        "The path does not exist, may not be read, or is not a regular file."
        " Check the path and its permissions.",
    ),
    "RUB-CLI-011": (
        "A configuration file is not acceptable YAML",
        "Recipes are plain YAML of at most 256 KiB and 16 levels: no aliases, no tags, no duplicate keys. "
        "They cannot name Python code. The message gives the line."
        " Mend that line; `rubicc init` writes a valid recipe.",
    ),
    "RUB-CLI-012": (
        "The recipe's version is missing or unknown",
        "A recipe begins with `version: 1`, so that a later rubicc can tell what it means."
        " Write `version: 1` as its first line.",
    ),
    "RUB-CLI-013": (
        "A setting that only a flag may give",
        "allow_code and trust open the door to running foreign code; force and dry_run concern one run. "
        "None of them may come from a recipe, from --set or from the environment."
        " Give it as a flag of this run.",
    ),
    "RUB-CLI-014": (
        "No such code",
        "The code is not in the catalogue of this version. `rubicc explain` without a code lists all.",
    ),
    "RUB-CLI-016": (
        "Flags of another engine",
        "--workers and --ray-address say how Ray shares out the files. Give --engine ray with them, or leave "
        "them out; on one machine --threads says how many cores are used.",
    ),
    "RUB-CLI-020": (
        "The operating system refused",
        "A file could not be read or written, or a resource ran out; the message carries the system's own "
        "words. Outputs are staged, so nothing half-written was left at the output path."
        " Check the path, its permissions and the space on the disk, then run it again.",
    ),
    "RUB-CLI-021": (
        "Out of memory",
        "The machine had too little memory. Use a shorter chunk (--chunk), a smaller batch (--batch), or "
        "a machine with more memory.",
    ),
    "RUB-CLI-022": (
        "Interrupted",
        "The run was stopped by SIGINT or SIGTERM (exit code 130). Older outputs are as they were. "
        "Run the same command again: `basecall`, the verbs that train and `chain` go on where they stopped.",
    ),
    "RUB-CLI-900": (
        "Internal error",
        "This is a mistake in rubicc, not in what you gave it. Please report it with the output of "
        "`rubicc env` and of the same command with -vv.",
    ),
}
