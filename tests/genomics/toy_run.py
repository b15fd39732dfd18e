"""A run with the toy network, slowed down, for tests that kill it: toy_run.py READS OUT [SECONDS]."""

from __future__ import annotations

import sys
import time

from toy import META, decode, infer

from rubicc.genomics.engine import Settings, basecall


def main(reads: str, out: str, seconds: float) -> None:
    def slow(x):
        time.sleep(seconds)
        return infer(x)

    settings = Settings(batch=2, commit_seconds=0.0)
    basecall(slow, META, [reads], out, settings=settings, decode=decode, model_id="toy")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
