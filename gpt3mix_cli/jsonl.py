"""Lines and JSON objects of text files; the message for a bad one has its line."""

import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .errors import UserError
from .files import open_input

MAX_LINE_BYTES = 1 << 26  # a device such as /dev/zero is one endless line
# How files begin that are not text -> what to do.
SIGNATURES = {
    b"\x1f\x8b": "it is compressed with gzip: unpack it first",
    b"PK\x03\x04": "it is a ZIP archive or an Excel file: save it as CSV",
    b"PAR1\x15": "it is a Parquet file: give it the suffix .parquet",
    b"\xff\xfe": "it is UTF-16: save the file as UTF-8",
    b"\xfe\xff": "it is UTF-16: save the file as UTF-8",
}


def raw_lines(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield the lines of an open file.

    Raises:
        UserError: for a line without an end.
    """
    lines = iter(functools.partial(stream.readline, MAX_LINE_BYTES), b"")
    for number, line in enumerate(lines, 1):
        if len(line) == MAX_LINE_BYTES:
            raise UserError(
                f"{path}, line {number}: longer than {MAX_LINE_BYTES:,} bytes",
                "give a text file with one record on each line",
            )
        yield line


def read_lines(
    path: Path, blank: bool = False, keep_mark: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a UTF-8 file or stdin.

    Args:
        path: the file; `-` for stdin.
        blank: yield blank lines too.
        keep_mark: keep the byte order mark that some editors put at the start of a file.
    """
    with open_input(path) as stream:
        for number, raw in enumerate(raw_lines(stream, path), 1):
            where = f"{path}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 and not keep_mark else "utf-8")
            except UnicodeDecodeError as error:
                raise _not_text(where, f"not UTF-8 ({error.reason})", raw) from None
            if "\0" in line or (number == 1 and raw.startswith(tuple(SIGNATURES))):
                raise _not_text(where, "not text (NUL bytes)", raw)
            if blank or line.strip():
                yield number, line


def _not_text(where: str, problem: str, line: bytes) -> UserError:
    hints = [hint for start, hint in SIGNATURES.items() if line.startswith(start)]
    return UserError(f"{where}: {problem}", [*hints, "save the file as UTF-8"][0])


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of a JSONL file."""
    for number, line in read_lines(path):
        yield number, parse_object(f"{path}, line {number}", line)


def parse_object(where: str, line: str) -> dict[str, Any]:
    """Return the JSON object of a line.

    Raises:
        UserError: that begins with `where`, if the line is none.
    """
    try:
        value = _DECODER.decode(line)
        line.encode()
        if "\\u" in line:  # an escape may be a lone surrogate, which UTF-8 cannot encode
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: half a character (a lone surrogate escape)", "fix or remove the line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{where}: not valid JSON: {error}", "each line must be one JSON object"
        ) from None
    if not isinstance(value, dict):
        raise UserError(
            f"{where}: a JSON {type(value).__name__}, not an object",
            "each line must be one JSON object",
        )
    return value


def _parse_finite(text: str) -> float:
    if math.isfinite(value := float(text)):
        return value
    raise ValueError(f"{text} is not a JSON number")


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):  # the json module keeps the last one
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key '{twice:.80}' is in one object twice")
    return value


# Created once, which makes reading faster. The constants are NaN and the infinities.
_DECODER = json.JSONDecoder(
    parse_constant=_parse_finite,
    parse_float=_parse_finite,
    object_pairs_hook=_refuse_duplicate_keys,
)
to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
