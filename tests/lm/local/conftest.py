"""A tiny LM in a GGUF file."""

import shutil
from pathlib import Path

import pytest
from gguf_files import write_gguf


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory, tiny_lm: Path) -> Path:
    """The tiny LM as a GGUF file; do not change it."""
    return write_gguf(tiny_lm, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def file(tiny_gguf: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    folder = tmp_path / "models"
    folder.mkdir()
    return Path(shutil.copy(tiny_gguf, folder / "tiny.gguf"))
