"""The strict base class of all settings, types of their values, fingerprints and generators."""

import hashlib
import json
import random
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..errors import shown_value

# Short enough for the longest file name that holds them: most file systems allow 255 bytes.
FILE_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,149}")
FILE_STEM_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]{0,79}")
MAX_SEED = 2**63 - 1  # of a column of whole numbers
MAX_TRIALS = 100_000
MAX_BATCH = 100_000
MIN_POSITIVE = 1e-9


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        defer_build=True,  # most models are only used as parts of others
    )

    def __hash__(self) -> int:
        # Settings are keys of caches; pydantic's own hash does not take mappings.
        return hash(self.model_dump_json())


def _refuse_bool(value: Any) -> Any:
    # In Python, true equals 1.
    if isinstance(value, bool):
        raise ValueError(f"'{str(value).lower()}' is not a number")
    return value


def _refuse_tiny(value: float) -> float:
    # What is divided by it, or weighted with it, must stay finite.
    if 0 < value < MIN_POSITIVE:
        raise ValueError(f"{value:g} is below {MIN_POSITIVE:g}")
    return value


StrictInt = Annotated[int, BeforeValidator(_refuse_bool)]
StrictFloat = Annotated[float, BeforeValidator(_refuse_bool)]
PositiveFloat = Annotated[StrictFloat, Field(gt=0, le=1e9), AfterValidator(_refuse_tiny)]
Temperature = Annotated[StrictFloat, Field(ge=0, le=100), AfterValidator(_refuse_tiny)]
Seed = Annotated[StrictInt, Field(ge=-MAX_SEED, le=MAX_SEED)]


def _check_file_name(value: Any) -> str:
    # Names become file names, which must be valid on every system.
    if not isinstance(value, str | int) or not FILE_NAME_PATTERN.fullmatch(str(value)):
        raise ValueError(
            f"{shown_value(str(value))} cannot be a file name; use up to 150 letters, digits, "
            "'.', '_', '+' and '-'"
        )
    return str(value)


def _check_file_stem(value: Any) -> str:
    # Dots separate the parts of a file name: `eda.draw-1.jsonl`, `trials/eda.linear.jsonl`.
    if not isinstance(value, str | int) or not FILE_STEM_PATTERN.fullmatch(str(value)):
        raise ValueError(
            f"{shown_value(str(value))} cannot be part of a file name; use up to 80 letters, "
            "digits, '_', '+' and '-'"
        )
    if value in ("train", "history"):
        raise ValueError(f"'{value}' is the name of another file; choose another name")
    return str(value)


FileName = Annotated[str, BeforeValidator(_check_file_name)]
FileStem = Annotated[str, BeforeValidator(_check_file_stem)]


def fingerprint(value: object, length: int = 16) -> str:
    """Return the first hex digits of a JSON-like value's SHA-256; the order of keys is ignored."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def derived_seed(master: int, purpose: str, *index: int | str) -> int:
    """Return a 63-bit seed that depends only on the arguments."""
    text = json.dumps([master, purpose, *index], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(master: int, purpose: str, *index: int | str) -> random.Random:
    """Return a new random generator for (master seed, purpose, index)."""
    return random.Random(derived_seed(master, purpose, *index))  # noqa: S311 - statistics, not secrets
