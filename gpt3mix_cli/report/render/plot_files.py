"""The files of the plots: they are drawn again only if a chart has changed, which takes seconds."""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from ... import __version__
from ...errors import UserError
from ...files import atomic_write, hash_file, write_shared
from ...settings import fingerprint
from ...user_cache import cache_folder, file_state
from ..charts import Chart, SeriesStyle

FORMATS = ("png", "svg")


def file_names(charts: Iterable[Chart]) -> list[str]:
    """Return the names of the files, a PNG and an SVG a chart."""
    return [f"{chart.name}.{form}" for chart in charts for form in FORMATS]


def write_plots(charts: Sequence[Chart], styles: Mapping[str, SeriesStyle], output: Path) -> None:
    """Write the files of all charts into a folder; those that are there already stay.

    The same chart gives the same bytes, so their hashes are in the cache folder, under the chart.

    Raises:
        UserError: if a file cannot be written.
    """
    # A changed module draws in another way.
    drawn_by = [__version__, metadata.version("matplotlib"), file_state(_drawing_module())]
    for chart in charts:
        key = fingerprint([repr(chart), repr(styles), drawn_by], 32)
        record = cache_folder() / "plots" / f"{key}.json"
        if _are_written([output / name for name in file_names([chart])], record):
            continue
        from . import plots

        hashes = {}
        for name, content in plots.plot_files([chart], styles):
            path = output / name
            write_shared(path, content)
            hashes[name] = hash_file(path)
        with contextlib.suppress(UserError), atomic_write(record) as stream:
            stream.write(json.dumps(hashes).encode())


def _drawing_module() -> Path:
    return Path(__file__).with_name("plots.py")


def _are_written(paths: Sequence[Path], record: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        hashes = json.loads(record.read_bytes())
        return bool(hashes) and all(
            path.is_file() and hash_file(path) == hashes.get(path.name) for path in paths
        )
    return False
