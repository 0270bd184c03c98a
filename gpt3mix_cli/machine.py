"""What of this machine may change the last digits: versions of libraries, and threads."""

import functools
import importlib
import sys
from importlib import metadata

COMPUTING_PACKAGES = ("numpy", "scikit-learn", "torch", "transformers")


def machine() -> dict[str, str]:
    """Return the versions of the libraries that compute, and the number of threads."""
    if "torch" not in sys.modules:
        return _versions()
    # Another thread may be importing it: this waits until all of it is there.
    torch = importlib.import_module("torch")
    return _versions() | {"threads": str(torch.get_num_threads())}


@functools.cache  # thousands of manifests have them
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in COMPUTING_PACKAGES}
