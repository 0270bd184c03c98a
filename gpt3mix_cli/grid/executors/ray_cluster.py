"""Connects to a Ray cluster, checks its nodes, and keeps stdout for results."""

import contextlib
import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

from ... import __version__
from ...errors import UserError, first_line
from ...stopping import stop_if_requested
from .ray_workers import START_S, WorkerInfo, result_of, worker_info

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that is late must not start a cluster of its own
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # without it Ray warns of a change to come
    "RAY_DEDUP_LOGS": "0",  # otherwise its end prints what was held back
}
NO_CLUSTER = (
    "start one with `ray start --head`, or leave out --address; if it has a token, copy "
    "~/.ray/auth_token from its head and export RAY_AUTH_MODE=token"
)
CONNECT_S = 10.0


def check_reachable(address: str | None) -> None:
    """Make sure that something answers at a `HOST:PORT`: Ray would try for many minutes.

    Raises:
        UserError: if nothing does.
    """
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():
        return  # such as `auto`
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster at {address}: {first_line(error)}", NO_CLUSTER) from None


def connect(address: str | None) -> None:
    """Connect this process to a cluster, or start one on this machine if there is none.

    Args:
        address: of the cluster; None for that of RAY_ADDRESS, or of this machine.

    Raises:
        UserError: if there is none at the address.
    """
    os.environ.update(ENVIRONMENT)
    import ray
    from ray.exceptions import RayError

    address = address or os.environ.get("RAY_ADDRESS")
    check_reachable(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise UserError(
            f"no Ray cluster at {address or 'this machine'}: {first_line(error)}", NO_CLUSTER
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has set its own


def check_nodes(check: Callable[[WorkerInfo], None]) -> None:
    """Make sure that every node can run gpt3mix.

    Args:
        check: is called with the facts of each node.

    Raises:
        UserError: if a node cannot, or does not answer.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = ray.remote(worker_info)
    names = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        strategy = NodeAffinitySchedulingStrategy(node["NodeID"], True)
        options = {"num_cpus": 0, "scheduling_strategy": strategy, "max_retries": 0}
        names[probe.options(**options).remote()] = node["NodeManagerHostname"]
    wait_for_probes(names)
    for reference, name in names.items():
        try:
            check(result_of(reference))
        except (RayError, ImportError, RuntimeError) as error:
            raise UserError(
                f"node {name}: gpt3mix cannot be used there: {first_line(error)}",
                f"pip install gpt3mix=={__version__} on every node, in the Python of Ray",
            ) from None


def wait_for_probes(names: dict[Any, str]) -> None:
    """Wait until every node has answered.

    Args:
        names: the reference to each node's answer -> its name.

    Raises:
        UserError: if a node does not answer within `START_S`.
    """
    import ray

    deadline, late = time.monotonic() + START_S, list(names)
    while late:
        stop_if_requested()
        late = ray.wait(late, num_returns=len(late), timeout=1.0)[1]
        if late and time.monotonic() > deadline:
            raise UserError(
                f"node {', '.join(names[reference] for reference in late)}: no worker has started "
                f"there for {START_S:.0f} s",
                "see /tmp/ray/session_latest/logs on that node, or remove it from the cluster",
            )


# Standard output ---------------------------------------------------------------------------------


class StdoutWithoutRay:
    """Stdout without what Ray's threads print there, such as the end of the log of a dead node."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, unless a thread of Ray does."""
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return self._stream.write(text)


@contextlib.contextmanager
def keep_stdout_for_results() -> Iterator[None]:
    """Drop what Ray prints to stdout, until the block ends."""
    if sys.stdout is None:  # it is closed
        yield
        return
    with contextlib.redirect_stdout(cast(TextIO, StdoutWithoutRay(sys.stdout))):
        yield
