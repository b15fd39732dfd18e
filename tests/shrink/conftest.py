"""What the tests of the shrinking verbs share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from chain_home import CONFIG, RECIPE, chunk_folder

from rubicc.cli.main import main
from rubicc.frontend import checkpoint
from rubicc.models import registry


@pytest.fixture(scope="session")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, a recipe and, in ``out``, what came of it."""
    home = tmp_path_factory.mktemp("chain")
    entry = registry.get("demo-ctc")
    checkpoint.save(home / "model.pt", entry.build(CONFIG, seed=1), entry.meta(CONFIG))
    chunk_folder(home / "chunks")
    (home / "chain.yaml").write_text(RECIPE)
    assert main(["chain", str(home / "chain.yaml"), "-o", str(home / "out"), "-q"]) == 0
    return home


@pytest.fixture
def home(chained: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    shutil.copytree(chained, tmp_path / "home", symlinks=True)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flip-flop network with random weights."""
    path = tmp_path_factory.mktemp("model") / "small.pt"
    entry = registry.get("taiyaki-mgru")
    config = {"size": 16}
    checkpoint.save(path, entry.build(config, seed=0), entry.meta(config))
    return path
