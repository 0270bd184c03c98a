"""What of this machine may change the last digits: versions of libraries, and threads."""

import functools
import importlib
import sys
from collections.abc import Mapping
from importlib import metadata

COMPUTING_PACKAGES = ("numpy", "scikit-learn", "torch", "transformers")


def machine() -> dict[str, str]:
    """Return the versions of the libraries that compute, and the number of threads."""
    if "torch" not in sys.modules:
        return _versions()
    # Another thread may be importing it: this waits until all of it is there.
    torch = importlib.import_module("torch")
    return _versions() | {"threads": str(torch.get_num_threads())}


def machine_differences(earlier: Mapping[str, str]) -> list[str]:
    """Return in words what is another here than in an earlier `machine()`.

    Threads are compared only if torch was imported both times.
    """
    now = machine()
    return [
        f"{name} {value}, now {now[name]}"
        for name, value in earlier.items()
        if now.get(name, value) != value
    ]


@functools.cache  # thousands of manifests have them
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in COMPUTING_PACKAGES}
