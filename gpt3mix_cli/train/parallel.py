"""One training spread over several processes, as `torchrun` and `accelerate launch` start them.

Process 0 is the ordinary program. Every other one waits in `follow` for what process 0 asks of its classifier and does
its share of the same call: batches are split between the processes and gradients added up, so that nothing else in the
package knows of them.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ..settings import TransformerSettings


@dataclass(frozen=True)
class Group:
    """The processes that share a training; alone, `size` is 1 and nothing is exchanged."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    def add(self, tensors: Sequence["torch.Tensor"]) -> None:
        """Replace each tensor by its sum over the processes, in place."""
        import torch

        if self.size > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            torch.distributed.all_reduce(flat)
            for tensor, part in zip(
                tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True
            ):
                tensor.copy_(part.view_as(tensor))

    def ask(
        self,
        name: str,
        settings: "TransformerSettings",
        classes: Sequence[str],
        arguments: tuple[Any, ...],
    ) -> None:
        """Have the other processes call the same method of the same classifier with the same arguments."""
        if self.size > 1 and self.rank == 0:
            _broadcast((name, settings, classes, arguments))


def group_size() -> int:
    """Return how many processes share this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@functools.cache
def group() -> Group:
    """Return the processes of this training, joined at the first call."""
    size = group_size()
    if size == 1:
        return Group()
    import torch

    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local_rank)
    # The others wait while the first one does what it does alone, such as writing rows.
    torch.distributed.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(days=7))
    return Group(rank, local_rank, size)


def follow(opened: Callable[["TransformerSettings", tuple[str, ...]], Any]) -> None:
    """Do what process 0 asks for until it ends.

    Args:
        opened: returns the classifier for its settings.
    """
    while (asked := _broadcast(None)) is not None:
        name, settings, classes, arguments = asked
        with suppress(
            ArithmeticError
        ):  # a loss that is no number is so in every process, and process 0 tells of it
            getattr(opened(settings, tuple(classes)), name)(*arguments)
    leave()


def leave() -> None:
    """End the exchange, whose threads must not outlive the interpreter; from process 0 the others are let go first."""
    import torch

    if group().rank == 0:
        _broadcast(None)
    torch.distributed.destroy_process_group()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use as many CPU threads as a classifier's settings say, whatever the machine has: sums depend on how they are split."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _broadcast(value: object) -> Any:
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box, src=0)
    return box[0]
