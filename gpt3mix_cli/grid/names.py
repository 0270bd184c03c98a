"""Checks of the method and classifier names that a user gives."""

from collections.abc import Sequence

from ..errors import UserError
from ..settings import FILE_STEM_PATTERN

REAL_ROWS_ONLY = "uses real examples only, so it runs with method 'none'; other methods are skipped"


def check_known(kind: str, name: str, names: Sequence[str]) -> None:
    """Check that the config has a method or classifier of this name.

    Raises:
        UserError: if it does not.
    """
    if name not in names:
        raise UserError(f"the config has no {kind} '{name}'", f"its {kind}s: {', '.join(names)}")


def check_method_name(name: str) -> None:
    """Check that a method outside the config may have this name: it becomes part of a file name.

    Raises:
        UserError: if it may not.
    """
    if not FILE_STEM_PATTERN.fullmatch(name) or name in ("none", "train", "history"):
        raise UserError(
            f"'{name}' cannot be the name of a method",
            "give another one with --method, of letters, digits, '_', '+' and '-'",
        )
