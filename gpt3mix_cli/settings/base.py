"""What all settings are made of: the strict base, the types of their values, fingerprints and named generators."""

import hashlib
import json
import random
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

FILE_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
FILE_STEM_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    def __hash__(self) -> int:
        """Return a hash of all values, mappings included: settings are keys of what is kept for them."""
        return hash(self.model_dump_json())


def _number(value: Any) -> Any:
    # Python would take true for 1.
    if isinstance(value, bool):
        raise ValueError(f"'{str(value).lower()}' is no number")
    return value


StrictInt = Annotated[int, BeforeValidator(_number)]
StrictFloat = Annotated[float, BeforeValidator(_number)]


def _name(value: Any) -> str:
    # Names become parts of file names, so they must be safe there on every system.
    if not isinstance(value, str | int) or not FILE_NAME_PATTERN.fullmatch(str(value)):
        raise ValueError(
            f"'{value}' cannot be a file name; use letters, digits, '.', '_', '+' and '-'"
        )
    return str(value)


def _part(value: Any) -> str:
    # Dots set the parts of a file name apart: `eda.draw-1.jsonl`, `trials/eda.linear.jsonl`.
    if not isinstance(value, str | int) or not FILE_STEM_PATTERN.fullmatch(str(value)):
        raise ValueError(
            f"'{value}' cannot be part of a file name; use letters, digits, '_', '+' and '-'"
        )
    if value in ("train", "history"):
        raise ValueError(f"'{value}' names another file; choose another")
    return str(value)


FileName = Annotated[str, BeforeValidator(_name)]
FileStem = Annotated[str, BeforeValidator(_part)]


def fingerprint(value: object, length: int = 16) -> str:
    """Return the first hex digits of the SHA-256 of a JSON-like value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def derived_seed(master: int, purpose: str, *index: int | str) -> int:
    """Return a 63-bit seed that depends on nothing but its arguments (design: named generators)."""
    text = json.dumps([master, purpose, *index], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(master: int, purpose: str, *index: int | str) -> random.Random:
    """Return a random generator of its own for (master seed, purpose, index)."""
    return random.Random(derived_seed(master, purpose, *index))  # noqa: S311 - statistics, not secrets
