"""Each bad GGUF file, and each cache that cannot be used, has one clear message."""

import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from gguf_files import finish, local, small

from gpt3mix_cli.errors import Callbacks, UserError
from gpt3mix_cli.lm.local import gguf
from gpt3mix_cli.lm.local.model_cache import converted_models


def truncated_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def truncated_data(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damaged_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[24:32] = b"\xff" * 8  # the length of the first key
    path.write_bytes(data)


def split(path: Path) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 3)
    finish(writer)


def with_value(key: str, value: int | str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        writer = GGUFWriter(path, "llama")
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
        finish(writer)

    return spoil


WEB_PAGE, ZEROS = "<!doctype html><title>Sign in</title>", b"GGUF" + bytes(100)
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a web page": (lambda path: path.write_text(WEB_PAGE), "not a GGUF file"),
    "empty": (lambda path: path.write_bytes(b""), "not a GGUF file"),
    "zeros": (lambda path: path.write_bytes(ZEROS), "a GGUF file of version 0"),
    "truncated header": (truncated_header, "truncated or damaged"),
    "truncated data": (truncated_data, r"truncated: it has [\d,]+ of [\d,]+ bytes"),
    "damaged header": (damaged_header, "truncated or damaged"),
    **{
        f"{key}: {value!r}": (with_value(key, value), f"damaged: .*{key} is no integer")
        for key, value in [
            ("general.alignment", 0),
            ("general.alignment", "32"),
            ("split.count", "3"),
            ("tokenizer.ggml.tokens", "none"),
        ]
    },
    "split": (split, "one of 3 parts of a model"),
    "encoder": (lambda path: small(path, "bert"), r"an encoder \(bert\), which cannot write texts"),
    "unknown": (
        lambda path: small(path, "made-up"),
        "cannot be converted: GGUF model with architecture made-up is not supported",
    ),
    "no weights": (lambda path: small(path, "llama"), "cannot be converted: "),
    "no tokenizer": (lambda path: small(path, "llama", tokens=0), "has no tokenizer"),
    "vocabulary": (
        lambda path: small(path, "llama", tokens=9),
        "its tokenizer has 9 tokens, its model embeddings for only 8",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused(
    name: str, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil, message = BAD[name]
    spoil(file)
    with pytest.raises(UserError, match=message) as error:
        local(file)
    assert f"lm.model {file}: " in error.value.message
    assert error.value.hint
    assert "\n" not in error.value.message
    assert converted_models() == []
    assert not list((tmp_path / "cache").glob("models/.*.partial"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("library", gguf.LIBRARIES)
def test_a_missing_library_is_named(
    library: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=f"{library} must be installed") as error:
        local(file)
    assert error.value.hint == "pip install 'gpt3mix[gguf]'"


def test_a_cache_that_cannot_be_created(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").touch()
    monkeypatch.setenv("GPT3MIX_CACHE", str(tmp_path / "plain" / "cache"))
    with pytest.raises(UserError, match=r"plain/cache.*cannot be written") as error:
        local(file)
    assert "GPT3MIX_CACHE" in error.value.hint


def test_a_disk_without_space_is_reported_first(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(file)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    notes: list[str] = []
    with pytest.raises(UserError, match=r"lm\.model .*tiny\.gguf: no space .* MB in ") as error:
        local(file, Callbacks(note=notes.append))
    assert "free some space, or set the environment variable GPT3MIX_CACHE" in error.value.hint
    assert notes == converted_models() == []


def test_a_disk_that_fills_up(file: Path, tmp_path: Path) -> None:
    """A limit on the size of files has the effect of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cache/models/.* cannot be written: ") as error:
            local(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.hint
    assert converted_models() == []
    assert not list((tmp_path / "cache").glob("models/.*.partial"))
