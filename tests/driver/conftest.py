"""A compiled demo basecaller, shared by the driver's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rubicc import api
from rubicc.driver.artefact import Artefact
from rubicc.driver.demo import MODEL, READS, embedded


@pytest.fixture(scope="session")
def demo_model() -> Iterator[Path]:
    with embedded(MODEL) as path:
        yield path


@pytest.fixture(scope="session")
def demo_reads() -> Iterator[Path]:
    with embedded(READS) as path:
        yield path


@pytest.fixture(scope="session")
def demo_artefact(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    out = tmp_path_factory.mktemp("driver") / "demo"
    return api.compile(demo_model, out=out, target="cpu", runtime="onnxruntime", dump_stages=True)
