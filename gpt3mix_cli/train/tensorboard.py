"""The epochs of a trial as TensorBoard scalars."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError


@contextmanager
def open_writer(folder: Path | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that writes the metrics of an epoch; without a folder it does nothing.

    Raises:
        UserError: if TensorBoard is not installed.
    """
    if folder is None:
        yield lambda epoch: None
        return
    check_installed()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as board:

        def write_epoch(epoch: Mapping[str, Any]) -> None:
            for name, value in epoch.items():
                if name != "epoch":
                    board.add_scalar(name, value, epoch["epoch"])

        yield write_epoch


def check_installed() -> None:
    """Make sure that TensorBoard is installed, before anything is trained.

    Raises:
        UserError: if it is not.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard needs the package tensorboard", "pip install 'gpt3mix[tensorboard]'"
        )
