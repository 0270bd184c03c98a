"""Options of the commands that run trials: where these run."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from .grid import Grid

Executor = Annotated[
    Literal["processes", "ray"],
    typer.Option(
        metavar="processes|ray",
        help="where trials run: on this machine, or on a Ray cluster, where the local LM runs too",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="of the Ray cluster; default: RAY_ADDRESS, or the one of this machine, which is "
        "started if there is none",
    ),
]


def choose_executor(
    grid: "Grid", executor: Literal["processes", "ray"], address: str | None
) -> None:
    """Set where the trials of a command run.

    Raises:
        UserError: if there is an address of no cluster.
    """
    from .errors import UserError
    from .grid.executors.opener import ExecutorOptions

    if address and executor != "ray":
        raise UserError("--address is that of a Ray cluster", "add --executor ray")
    grid.executor = ExecutorOptions(executor, address)
