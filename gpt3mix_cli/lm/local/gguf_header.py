"""The header of a GGUF file: metadata, and where each tensor is.

The reader of the package gguf takes seconds for a large vocabulary, and fails on damaged files with
errors of numpy. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...files import open_input

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32  # bytes
# Key -> its least value. Of an array, such as the tokens, the length is read.
INTEGERS = {"general.alignment": 1, "split.count": 0, "tokenizer.ggml.tokens": 0}
# Type of a value -> its format for `struct`.
NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
STRING, ARRAY = 8, 9
DAMAGE = (struct.error, KeyError, ValueError, OverflowError, RecursionError)
DOWNLOAD_AGAIN = "download it again; is it a web page or a Git LFS pointer saved under this name?"


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says about its model.

    Attributes:
        metadata: key -> value; of an array its length.
        shapes: tensor -> its shape, the fastest-moving dimension first.
        file_bytes: the size that the file must have.
    """

    metadata: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    file_bytes: int

    @property
    def num_parameters(self) -> int:
        """Number of values in all tensors."""
        return sum(map(math.prod, self.shapes.values()))


def read_header(path: Path) -> GGUFHeader:
    """Return the header of a whole GGUF file.

    Raises:
        UserError: if the file is of another format or version, truncated or damaged.
    """
    with open_input(path) as stream:
        start, size = stream.read(8), path.stat().st_size
        if start[:4] != MAGIC:
            raise UserError(f"lm.model {path}: not a GGUF file", DOWNLOAD_AGAIN)
        version = int.from_bytes(start[4:], "little")
        if version not in VERSIONS:
            raise UserError(
                f"lm.model {path}: a GGUF file of version {version}; only versions 2 and 3 can be "
                "read",
                "download it again, convert it with today's llama.cpp, or serve it with llama.cpp "
                "and use lm.kind: openai",
            )
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header = _Reader(data).read()
            except DAMAGE as error:
                raise UserError(
                    f"lm.model {path}: the GGUF file is truncated or damaged: its header cannot be "
                    f"read ({error})",
                    DOWNLOAD_AGAIN,
                ) from None
    if size < header.file_bytes:
        raise UserError(
            f"lm.model {path}: the GGUF file is truncated: it has {size:,} of "
            f"{header.file_bytes:,} bytes",
            "download it again",
        )
    return header


class _Reader:
    """Reads a header from its beginning; raises one of `DAMAGE` where it is invalid."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._position = data, len(MAGIC) + 4

    def read(self) -> GGUFHeader:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        num_tensors, num_fields = self._number("<Q"), self._number("<Q")
        metadata = {self._string(): self._value(self._number("<I")) for _ in range(num_fields)}
        for key, least in INTEGERS.items():
            value = metadata.get(key, least)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{key} is no integer of at least {least}")
        shapes, data_bytes = dict[str, tuple[int, ...]](), 0
        for _ in range(num_tensors):
            name = self._string()
            shapes[name] = tuple(self._number("<Q") for _ in range(self._number("<I")))
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(self._number("<I"))]
            end = self._number("<Q") + math.prod(shapes[name]) // block * block_bytes
            data_bytes = max(data_bytes, end)
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        start = -(-self._position // alignment) * alignment
        return GGUFHeader(metadata, shapes, start + data_bytes)

    def _number(self, form: str) -> Any:
        (number,) = struct.unpack_from(form, self._data, self._position)
        self._position += struct.calcsize(form)
        return number

    def _string(self) -> str:
        start = self._position + 8
        self._skip(self._number("<Q"))
        return self._data[start : self._position].decode()

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._number(NUMBERS[kind])
        kind, count = self._number("<I"), self._number("<Q")
        if kind in NUMBERS:
            self._skip(count * struct.calcsize(NUMBERS[kind]))
        elif kind == STRING:  # those of the vocabulary: not decoded, which would take longer
            for _ in range(count):
                self._skip(self._number("<Q"))
        else:
            for _ in range(count):
                self._value(kind)
        return count

    def _skip(self, count: int) -> None:
        self._position += count
        if self._position > len(self._data):
            raise ValueError("the file ends too early")
