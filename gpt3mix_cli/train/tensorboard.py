"""The epochs of a trial for those who watch them in TensorBoard."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError


@contextmanager
def writer(folder: Path | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield what takes the line of each epoch; without a folder it does nothing.

    Raises:
        UserError: if TensorBoard is not installed.
    """
    if folder is None:
        yield lambda epoch: None
        return
    probe()
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as board:

        def add(epoch: Mapping[str, Any]) -> None:
            for name, value in epoch.items():
                if name != "epoch":
                    board.add_scalar(name, value, epoch["epoch"])

        yield add


def probe() -> None:
    """Say what is missing before anything is trained.

    Raises:
        UserError: if TensorBoard is not installed.
    """
    import importlib.util

    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "--tensorboard needs the package tensorboard", "pip install 'gpt3mix[tensorboard]'"
        )
