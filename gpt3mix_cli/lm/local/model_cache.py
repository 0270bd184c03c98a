"""The models that were converted from GGUF files: where they are, listing, removal.

    <cache>/models/<SHA-256 of the file>-v<version>/    the model, its tokenizer, source.json

<cache> is the folder of `user_cache`.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ...errors import UserError, did_you_mean
from ...files import remove_folder
from ...user_cache import cache_folder, clear_records

CONVERSION_VERSION = 1  # raised when equal files get other weights or another tokenizer
CACHE_HINT = "set the environment variable GPT3MIX_CACHE to a folder that can be written"
SOURCE_FILE = "source.json"


@dataclass(frozen=True)
class ConvertedModel:
    """A model in the cache.

    Attributes:
        name: of the GGUF file.
        size: on the disk, in bytes.
        date: when it was converted, in UTC; empty if unknown.
        path: the folder.
    """

    name: str
    size: int
    date: str
    path: Path


def model_folder(digest: str) -> Path:
    """Return the folder of a converted model.

    Args:
        digest: SHA-256 of the GGUF file.
    """
    return cache_folder() / "models" / f"{digest}-v{CONVERSION_VERSION}"


def write_source(folder: Path, file: Path) -> None:
    """Write into a model's folder which GGUF file it was converted from, and when."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    source = {"file": file.name, "bytes": file.stat().st_size, "date": date}
    (folder / SOURCE_FILE).write_text(json.dumps(source, ensure_ascii=False), "utf-8")


def converted_models(name: str | None = None) -> list[ConvertedModel]:
    """Return the models in the cache.

    Args:
        name: only those of this file or in this folder; default: all.

    Raises:
        UserError: if none has the name.
    """
    folders = cache_folder().glob("models/[!.]*/")
    described = filter(None, map(_describe, folders))
    models = sorted(described, key=lambda model: model.name)
    if name is None:
        return models
    if chosen := [model for model in models if name in (model.name, model.path.name)]:
        return chosen
    raise UserError(
        f"no converted model '{name}'{did_you_mean(name, [model.name for model in models])}",
        "gpt3mix cache lists them",
    )


def remove_models(name: str | None = None) -> list[ConvertedModel]:
    """Remove converted models, and return them.

    Args:
        name: as for `converted_models`; default: all, with what killed conversions left.

    Raises:
        UserError: if none has the name, a model is being converted, or the cache is read-only.
    """
    models = converted_models(name)
    for model in models:
        remove_folder(model.path)
    if name is None:
        folder = cache_folder()
        for partial in folder.glob("models/.*.partial/"):
            remove_folder(partial.with_name(partial.name.split(".")[1]))  # .<name>.<id>.partial
        clear_records()
    return models


def _describe(folder: Path) -> ConvertedModel | None:
    try:
        size = sum(file.stat().st_size for file in folder.iterdir())
    except FileNotFoundError:  # another process has removed it in the meantime
        return None
    try:
        source = json.loads((folder / SOURCE_FILE).read_text("utf-8"))
        return ConvertedModel(str(source["file"]), size, str(source["date"]), folder)
    except (OSError, ValueError, KeyError, TypeError):
        return ConvertedModel(folder.name, size, "", folder)
