"""The user's cache folder: what is slow to compute and depends on files and this machine only.

    <cache>/models/      models that were converted from GGUF files
    <cache>/hashes/      SHA-256 of large files that were read before
    <cache>/precision/   measured precision of labels in a lower dtype
    <cache>/facts/       facts of a model that was opened before, such as device and dtype
    <cache>/plots/       hashes of the plots of a chart
    <cache>/copies/      near copies between the splits of a data set

<cache> is the environment variable GPT3MIX_CACHE, or `gpt3mix` in XDG_CACHE_HOME or ~/.cache.

So a start needs neither torch nor the weights to know whether an output is up to date. Files are
recognised as git does it, by path, size, times and inode. Nothing in here must be kept: what is
missing is computed again.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__
from .errors import StoppedShort, UserError
from .files import atomic_write, hash_file
from .settings import fingerprint

MODEL_FILES = ("*.safetensors", "*.bin", "*.model", "*.spm", "*.json", "vocab*", "merges*")
LARGE_FILE_BYTES = 1_000_000  # smaller files are hashed faster than a record is found
KINDS = (
    "hashes",
    "precision",
    "facts",
    "plots",
    "copies",
)  # of records that `clear_records` removes
LIBRARIES = ("torch", "transformers", "tokenizers", "sentence-transformers", "setfit")
GPU_FILES = ("/dev/nvidia[0-9]*", "/dev/dxg", "/dev/kfd")
GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def cache_folder() -> Path:
    """Return the cache's folder, which need not exist."""
    if folder := os.environ.get("GPT3MIX_CACHE"):
        return Path(folder).expanduser().absolute()
    caches = os.environ.get("XDG_CACHE_HOME", "")  # to be ignored if relative, says its standard
    return (Path(caches) if Path(caches).is_absolute() else Path.home() / ".cache") / "gpt3mix"


def clear_records() -> None:
    """Remove all records; converted models stay."""
    for kind in KINDS:
        shutil.rmtree(cache_folder() / kind, ignore_errors=True)


# Hashes of files ---------------------------------------------------------------------------------


def hash_large_file(path: Path) -> str:
    """Return the SHA-256 of a file; it is computed again only if the file has changed."""
    record = cache_folder() / "hashes" / fingerprint(file_state(path), 32)
    with contextlib.suppress(OSError, ValueError):
        if re.fullmatch("[0-9a-f]{64}", known := record.read_text("ascii")):
            return known
    digest = hash_file(path)
    with contextlib.suppress(UserError), atomic_write(record) as stream:  # a read-only cache
        stream.write(digest.encode())
    return digest


def hash_model(folder: Path) -> str:
    """Return a hash of those files of a model's folder that can change its results."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}):
        large = path.is_file() and path.stat().st_size >= LARGE_FILE_BYTES
        sha = hash_large_file(path) if large else hash_file(path)
        digest.update(f"{path.name} {sha}\n".encode())
    return digest.hexdigest()[:16]


def file_state(path: Path) -> list[Any]:
    """Return what shows that a file is the same as before, without reading it."""
    status = path.stat()
    # A copy may keep the first time, but not the second.
    times = [status.st_mtime_ns, status.st_ctime_ns]
    return [str(path.absolute()), status.st_size, status.st_ino, *times]


# Facts of a model --------------------------------------------------------------------------------


class ModelFacts:
    """Facts of a model, from the cache or by opening it now.

    What opens a model computes them, and nothing else does. So facts from the cache equal those of
    the opened model; `check` makes sure of it when the model is opened at last.

    Args:
        what: the model and its settings, such as `lm: {...}`; part of the key.
        model: its file, folder or hub id.
        revision: commit, branch or tag of a hub model.
        compute: opens the model and returns its facts, as a JSON object.
        read_only: the model only counts tokens: keep what is computed to oneself.

    Attributes:
        values: the facts.
        is_computed: whether they were computed in this process.
    """

    def __init__(
        self,
        what: Mapping[str, Any],
        model: str,
        revision: str | None,
        compute: Callable[[], dict[str, Any]],
        read_only: bool = False,
    ) -> None:
        self._model, self._what, self._revision = model, what, revision
        self._compute, self._read_only = compute, read_only
        self._is_other = False
        stored = self._read()
        self.is_computed = stored is None
        self.values = compute() if stored is None else stored
        if self.is_computed and not read_only:
            self._store(self.values)

    def check(self) -> None:
        """Open the model if nobody has yet, and compare its facts. Call it before each use.

        Rows are stored under the facts that were read first. So a model with other ones is refused
        as long as this object lives; one that is created later has the new facts.

        Raises:
            StoppedShort: if they differ, as after a new version of a hub model.
        """
        if not (self.is_computed or self._is_other or self._read_only):
            values = self._compute()
            self._is_other = values != self.values
            self.is_computed = not self._is_other
            if self._is_other:
                self._store(values)
        if self._is_other:
            raise StoppedShort(
                f"{self._model}: the model, its device or dtype is another than before",
                "run the same command again",
            )

    def _record(self) -> Path | None:
        if not (files := model_state(self._model, self._revision)):
            return None
        key = [self._what, files, machine_state()]
        return cache_folder() / "facts" / f"{fingerprint(key, 32)}.json"

    def _read(self) -> dict[str, Any] | None:
        path = self._record()
        with contextlib.suppress(OSError, ValueError):
            values = json.loads(path.read_bytes()) if path else None
            return values if isinstance(values, dict) else None
        return None

    def _store(self, values: dict[str, Any]) -> None:
        # Opening it may have downloaded its files, so the record's name is looked up anew.
        if path := self._record():
            with contextlib.suppress(UserError), atomic_write(path) as stream:
                stream.write(json.dumps(values).encode())


def model_state(model: str, revision: str | None = None) -> list[list[Any]]:
    """Return the states of a model's files; empty if it is not on this machine.

    Args:
        model: a file, a folder or a hub id, of which the downloaded files count.
        revision: commit, branch or tag of a hub model.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return [file_state(path)]
    folder = path if path.is_dir() else hub_snapshot(model, revision)
    files = sorted(folder.iterdir()) if folder else ()
    return [file_state(file) for file in files if file.is_file()]


def hub_snapshot(model: str, revision: str | None) -> Path | None:
    """Return the folder of a hub model's downloaded files; None without any.

    Args:
        model: its id.
        revision: commit, branch or tag.
    """
    from huggingface_hub import try_to_load_from_cache

    with contextlib.suppress(ValueError):  # no hub id
        for name in ("config.json", "tokenizer_config.json"):
            file = try_to_load_from_cache(model, name, revision=revision)
            if isinstance(file, str):
                return Path(file).parent
    return None


@functools.cache
def machine_state() -> dict[str, Any]:
    """Return what decides device and dtype on this machine, and versions of the libraries."""
    gpus = sorted(str(path) for name in GPU_FILES for path in Path("/").glob(name[1:]))
    return {
        "version": __version__,
        "libraries": {name: _version(name) for name in LIBRARIES},
        "cpu": _first_line("/proc/cpuinfo", ("flags", "Features")),
        "gpus": gpus,
        # The driver may be another one after a restart, and the folder that of several machines.
        "boot": _first_line("/proc/sys/kernel/random/boot_id", ("",)) if gpus else "",
        "variables": {name: os.environ.get(name) for name in GPU_VARIABLES},
    }


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        # `metadata.version` parses the description too, which takes milliseconds.
        text = metadata.distribution(package).read_text("METADATA") or ""
        found = re.search("^Version: (.+)$", text, re.MULTILINE)
        return found[1] if found else metadata.version(package)
    return None


def _first_line(path: str, starts: tuple[str, ...]) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as lines:
        return next((line for line in lines if line.startswith(starts)), "")
    return ""
