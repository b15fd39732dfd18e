"""Start-up time of the command: `rubicc --help` under 0.3 s, `rubicc targets` under 1 s.

    python benchmarks/startup.py

Twenty runs each, in turns, in new processes; minimum and median wall time, bytecode warm.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

LIMITS = {"--help": 0.3, "targets": 1.0, "passes list": 1.0, "models list": 1.0, "explain RUB-DRV-001": 1.0}
ROUNDS = 20


def once(words: str) -> float:
    """Wall seconds of one command."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rubicc", *words.split()], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    """Print one row per command; exit code 1 when a median is above its limit."""
    times: dict[str, list[float]] = {words: [] for words in LIMITS}
    for words in LIMITS:
        once(words)
    for _ in range(ROUNDS):
        for words, runs in times.items():
            runs.append(once(words))
    print("| command | minimum s | median s | limit s |\n|---|---|---|---|")
    for words, runs in times.items():
        print(f"| rubicc {words} | {min(runs):.3f} | {statistics.median(runs):.3f} | {LIMITS[words]} |")
    return int(any(statistics.median(runs) > LIMITS[words] for words, runs in times.items()))


if __name__ == "__main__":
    sys.exit(main())
