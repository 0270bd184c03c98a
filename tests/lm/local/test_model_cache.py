"""The cache of converted models while other processes change it, are killed, or left it damaged."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from gpt3mix_cli.errors import UserError
from gpt3mix_cli.files import atomic_folder, hash_file
from gpt3mix_cli.lm.local.model_cache import (
    converted_models,
    model_folder,
    remove_models,
)
from gpt3mix_cli.user_cache import cache_folder, hash_large_file


@pytest.fixture
def model() -> Path:
    """A model's folder in the cache."""
    folder = model_folder("0" * 64)
    with atomic_folder(folder, "") as partial:
        assert partial
        for number in range(50):
            (partial / f"{number}.safetensors").write_text("weights")
    return folder


# Kills itself when the second file is to be removed.
KILLED = """
import os, signal, sys
from gpt3mix_cli.lm.local.model_cache import remove_models

removed = []

def hook(event, arguments):
    if event == "os.remove":
        removed.append(arguments)
        if len(removed) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
remove_models(sys.argv[1])
"""


def test_a_killed_removal_leaves_no_part_that_counts(model: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, model.name], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not model.exists()
    (left,) = model.parent.glob(".*.partial/")
    assert len(list(left.iterdir())) == 49
    with atomic_folder(model, "") as partial:
        assert partial  # to be filled again
        assert not left.exists()
    assert model.is_dir()


def test_all_that_killed_processes_left_is_cleared(model: Path) -> None:
    for name in (f".{model.name}.partial", f".{model.name}.ab12.partial", ".other-v1.cd.partial"):
        (model.with_name(name)).mkdir()
    assert [removed.path for removed in remove_models()] == [model]
    assert list(model.parent.iterdir()) == []


def test_a_model_that_cannot_be_removed(model: Path) -> None:
    model.with_name(f".{model.name}.partial.lock").mkdir()  # the lock cannot be created
    with pytest.raises(UserError, match=f"{model}: cannot be written: ") as error:
        remove_models(model.name)
    assert error.value.hint == f"check the permissions of {model.parent}"
    assert len(converted_models()) == 1


def test_without_locks_the_first_to_finish_wins(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(lock: FileLock, **options: object) -> None:
        raise OSError(errno.ENOSYS, "no locks")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    folder = model.with_name("other")
    with atomic_folder(folder, "") as slow:
        assert slow
        (slow / "first.txt").write_text("half")
        with atomic_folder(folder, "") as fast:
            assert fast
            (fast / "text.txt").write_text("whole")
        assert (slow / "first.txt").read_text() == "half"
    assert [path.name for path in folder.iterdir()] == ["text.txt"]
    assert not list(folder.parent.glob(".*"))


# Removes the model at the moment when its files are to be listed.
OVERTAKEN = """
import os, shutil, sys
from gpt3mix_cli.lm.local.model_cache import converted_models

def hook(event, arguments):
    if event == "os.listdir" and str(arguments[0]) == sys.argv[1]:
        shutil.rmtree(sys.argv[1])

sys.addaudithook(hook)
print(len(converted_models()))
"""


def test_a_model_that_is_removed_while_it_is_listed(model: Path) -> None:
    command = [sys.executable, "-c", OVERTAKEN, str(model)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "0\n"
    assert not model.exists()


@pytest.mark.parametrize("content", ["", "0" * 63, "../" * 22, "G" * 64, f"{'0' * 64}\n"])
def test_a_damaged_record_of_a_hash_is_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "file.gguf"
    file.write_text("some bytes")
    digest = hash_large_file(file)
    (record,) = (cache_folder() / "hashes").iterdir()
    record.write_text(content)
    assert hash_large_file(file) == digest == hash_file(file)
    assert record.read_text() == digest
