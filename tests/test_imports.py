"""The import law of the design, read from the syntax trees: imports point down, and heavy libraries stay in their homes."""

import ast
import graphlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gpt3mix_cli

PACKAGE = Path(gpt3mix_cli.__file__).parent
FLOOR = {
    "layout",
    "settings",
    "config",
    "files",
    "pretrained",
    "records",
    "data",
    "errors",
    "",
}  # "" is the package itself: its version
STAGES = {"subsample", "augment", "train", "report"}
DOOR = {"cli", "opening", "display", "check"}
RANK = {
    **dict.fromkeys(FLOOR, 0),
    "lm": 1,
    **dict.fromkeys(STAGES, 2),
    "grid": 3,
    **dict.fromkeys(DOOR, 4),
}
ASK_THE_LM = {"augment", "train"}  # GPT3Mix, and a classifier that prompts

HOMES = {
    "torch": {
        "lm.local",
        "lm.decoding",
        "lm.window",
        "lm.beams",
        "lm.sampling",
        "lm.tokens",
        "augment.translators",
        "augment.choose",
        "augment.mlm",
        "train.transformer",
        "train.encoder",
        "train.parallel",
        "train.setfit",
        "train.curves",
        "check",
    },  # check names the devices
    "transformers": {
        "pretrained",
        "lm.local",
        "lm.decoding",
        "lm.window",
        "augment.translators",
        "train.setfit",
    },
    "datasets": {"data"},
    "pyarrow": {"data"},
    "sklearn": {
        "train.linear",
        "train.metrics",
        "train.setfit",
        "augment.choose",
        "augment.quality",
    },
    "numpy": {
        "train.linear",
        "train.metrics",
        "train.prompt",
        "train.setfit",
        "train.transformer",
        "augment.choose",
        "report.cells",
        "report.statistics",
    },
    "openai": {"lm.openai_api", "lm.endpoint.traffic", "lm.endpoint.batch"},
    "aiohttp": {"lm.endpoint.traffic"},
    "setfit": {"train.setfit"},
    "sentence_transformers": {"train.setfit"},
    "joblib": {"grid.workers"},
    "ray": {"grid"},
    "pandas": {"report", "report.tables", "report.statistics", "report.plots"},
    "scipy": {"report", "report.tables", "report.statistics", "report.plots"},
    "matplotlib": {"report.plots"},
}
# Light or needed to read the config; none of them may come with `--help`, which another test asks of sys.modules.
HOMES_OF_THE_LIGHT = {
    "pydantic": {
        "settings",
        "settings.base",
        "settings.task",
        "settings.augment",
        "settings.train",
        "config",
        "records",
        "lm.endpoint.money",
    },
    "yaml": {"config", "lm.endpoint.money"},
    "typer": {"cli"},
    "rich": {"cli", "display", "report.tables"},
}


@dataclass(frozen=True)
class Import:
    """An import: the modules that it may mean, where it stands, and whether only a type checker runs it."""

    names: tuple[str, ...]
    line: int
    function: str | None
    typing: bool


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


TREES = {
    name_of(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
PAGES = {name_of(path) for path in PACKAGE.rglob("__init__.py")}


def imports(module: str) -> Iterator[Import]:
    yield from _walk(TREES[module], module, None, False)


def _walk(node: ast.AST, module: str, function: str | None, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield Import(tuple(_names(child, module)), child.lineno, function, typing)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, module, function or child.name, typing)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for statement in child.body:
                yield from _walk(ast.Module([statement], []), module, function, True)
            for statement in child.orelse:
                yield from _walk(ast.Module([statement], []), module, function, typing)
        else:
            yield from _walk(child, module, function, typing)


def _names(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[str]:
    """Yield absolute names, our own ones beginning with a dot: `.lm.local`."""
    if isinstance(node, ast.Import):
        yield from (
            f".{alias.name.partition('.')[2]}"
            if alias.name.split(".")[0] == "gpt3mix_cli"
            else alias.name
            for alias in node.names
        )
        return
    if node.level == 0 and (node.module or "").split(".")[0] != "gpt3mix_cli":
        yield node.module or ""
        return
    if node.level == 0:
        base = (node.module or "").partition(".")[2]
    else:
        parts = [*module.split(".")] if module else []
        parts = parts if module in PAGES else parts[:-1]
        parts = parts[: len(parts) - (node.level - 1)]
        base = ".".join([*parts, *([node.module] if node.module else [])])
    for alias in node.names:
        inner = f"{base}.{alias.name}".strip(".")
        yield f".{inner if inner in TREES else base}"


def ours(module: str) -> Iterator[tuple[str, Import]]:
    for found in imports(module):
        for name in found.names:
            if name.startswith("."):
                yield name[1:], found


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", TREES)
def test_imports_point_down_and_no_stage_meets_another(module: str) -> None:
    assert top(module) in RANK, "a new part of the top level needs its place in the order"
    for target, found in ours(module):
        where = f"{module}, line {found.line} imports {target}"
        here, there = top(module), top(target)
        if here == there:
            continue
        if {here, there} <= DOOR or {here, there} <= FLOOR:
            continue
        assert RANK[there] < RANK[here], where
        if there == "lm" and here in STAGES:
            assert here in ASK_THE_LM, where


def test_no_two_modules_import_each_other_when_they_load() -> None:
    graph = {
        module: {
            target
            for target, found in ours(module)
            if found.function is None and not found.typing and target != module
        }
        for module in TREES
    }
    # `from . import __version__` of the package itself is no edge that could close a circle: it imports nothing of ours.
    assert not graph[""]
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("page", sorted(PAGES - {""}))
def test_a_variant_imports_its_page_and_the_page_reaches_it_only_to_open_it(page: str) -> None:
    inside = [
        (target, found)
        for target, found in ours(page)
        if found.function and target.startswith(f"{page}.")
    ]
    variants = {target for target, _ in inside}
    assert all(str(found.function).startswith("open_") for _, found in inside)
    for target, found in ours(page):
        if found.function is None:
            assert target not in variants, f"{page}, line {found.line}"
    for variant in variants:
        reached = {target for target, _ in ours(variant)}
        assert not {other for other in variants if other != variant} & reached, (
            f"{variant} imports its sibling"
        )
    for other in TREES:
        if top(other) != page:
            found_variants = {target for target, found in ours(other) if target in variants}
            # `plan` counts GPT3Mix's own prompts, and those of the classifier that prompts.
            allowed = {"grid.plan": {"augment.gpt3mix"}, "grid.predictions": {"train.prompt"}}
            assert found_variants <= allowed.get(other, set()), other


@pytest.mark.parametrize("module", TREES)
def test_heavy_libraries_are_imported_at_home_and_in_a_body(module: str) -> None:
    for found in imports(module):
        for name in found.names:
            library = name.split(".")[0]
            if library in HOMES:
                where = f"{module}, line {found.line} imports {name}"
                assert module in HOMES[library], where
                assert found.function or found.typing, where
            if library in HOMES_OF_THE_LIGHT:
                assert module in HOMES_OF_THE_LIGHT[library], (
                    f"{module}, line {found.line} imports {name}"
                )


def test_the_law_sees_what_it_is_to_see() -> None:
    """The reader of the trees itself: known imports are found where they stand."""
    assert ("lm", None) in {(target, found.function) for target, found in ours("augment.gpt3mix")}
    assert ("lm.local", "open_lm") in {(target, found.function) for target, found in ours("lm")}
    assert any(found.typing and found.names == ("torch",) for found in imports("train.transformer"))
    assert any(
        found.function == "_fit" and found.names == ("torch",)
        for found in imports("train.transformer")
    )


@pytest.mark.parametrize("module", [module for module in TREES if module not in DOOR])
def test_only_the_door_prints_reads_the_command_line_and_ends_the_process(module: str) -> None:
    for node in ast.walk(TREES[module]):
        text = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
        # A worker ends itself when its parent has gone; nobody else is there to do it.
        allowed = {
            "grid.workers": {"os._exit"},
            "files": {
                "sys.stdout.buffer",
                "sys.stdout.buffer.flush",
                "sys.stdout",
                "sys.stdin",
                "sys.stdin.fileno",
            },
        }.get(module, set())
        forbidden = text in ("print", "exit", "quit", "os._exit", "SystemExit") or text.startswith(
            ("sys.std", "sys.exit", "sys.argv")
        )
        assert not forbidden or text in allowed, (
            f"{module}, line {getattr(node, 'lineno', 0)}: {text}"
        )
    assert not [found.line for found in imports(module) if "logging" in found.names]


@pytest.mark.parametrize("module", TREES)
def test_no_global_generator_is_seeded_or_drawn_from(module: str) -> None:
    """torch's own is seeded in the classifier, inside a fork that gives the caller's state back."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert not called.startswith(("np.random.", "numpy.random.")), (
                f"{module}, line {node.lineno}"
            )
            seeded = called in ("torch.manual_seed", "torch.cuda.manual_seed_all")
            assert not seeded or module == "train.transformer", f"{module}, line {node.lineno}"
            if called.startswith("random.") and "import random" in map(
                ast.unparse, TREES[module].body
            ):
                assert called == "random.Random", f"{module}, line {node.lineno}"
