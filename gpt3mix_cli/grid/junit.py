"""The outcome of a run as a JUnit file, which CI systems show: a test case for each cell."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from ..errors import UserError
from ..files import atomic_write
from ..layout import Cell
from ..records import StageResult
from ..stopping import Interrupted

if TYPE_CHECKING:
    from .runner import Grid


def write_junit(path: Path, grids: "Sequence[Grid]") -> None:
    """Write a file with a test suite for each experiment and a test case for each cell.

    A cell fails if one of its steps did, and is skipped if the run ended before all of them; its
    time is that of its steps, also of those that were up to date.

    Raises:
        UserError: if the file cannot be written.
    """
    root = ElementTree.Element("testsuites")
    for grid in grids:
        root.append(_suite(grid))
    ElementTree.indent(root)
    with atomic_write(path) as stream:
        stream.write(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
        stream.write(b"\n")


def _suite(grid: "Grid") -> ElementTree.Element:
    failures: dict[Cell, list[UserError]] = {cell: [] for cell in grid.cells()}
    seconds = dict.fromkeys(failures, 0.0)
    left = Counter(step.cell for step in grid.steps())
    for step, result in grid.outcomes:
        left[step.cell] -= not isinstance(result, Interrupted)
        if isinstance(result, StageResult):
            seconds[step.cell] += result.manifest.seconds or 0.0
        elif not isinstance(result, Interrupted):
            failures[step.cell].append(result)
    suite = ElementTree.Element("testsuite", name=grid.layout.name)
    for cell, errors in failures.items():
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=grid.layout.name,
            name=str(cell),
            time=f"{seconds[cell]:.3f}",
        )
        if errors:
            failure = ElementTree.SubElement(case, "failure", message=errors[0].message)
            failure.text = "\n\n".join(map(str, errors))
        elif left[cell]:
            ElementTree.SubElement(case, "skipped", message=f"{left[cell]} steps were not run")
    suite.set("tests", str(len(failures)))
    suite.set("failures", str(sum(map(bool, failures.values()))))
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    suite.set("time", f"{sum(seconds.values()):.3f}")
    return suite
