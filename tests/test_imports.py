"""Rules on imports and shape of the package, checked on its syntax trees.

Imports point down the layers of the design, heavy libraries are imported where they belong, and
files, functions and `__init__` pages keep to their limits.
"""

import ast
import functools
import graphlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gpt3mix_cli

PACKAGE = Path(gpt3mix_cli.__file__).parent
MAX_LINES = 400  # of a source file
MAX_PARAMETERS = 7  # of a function, `self` not counted; command definitions are exempt

# Layers, from the bottom. A module imports from its own layer or from those below it.
BASE = {
    "", "classes", "config", "data", "decontamination", "division", "duplicates", "errors",
    "existing_outputs", "files", "folders", "jsonl", "labelled_rows", "layout", "machine",
    "near_duplicates", "pretrained", "provenance", "quiet", "records", "settings", "stopping",
    "table_copies", "tables", "task_files", "text_tables", "unlabelled", "user_cache",
    "workbook_tables", "yaml_files",
}  # fmt: skip
BASE |= {"guide"}  # the manual: it reads its pages only
STAGES = {"subsample", "augment", "train", "report"}
COMMAND_LINE = {
    "cli", "cli_emit", "cli_executors", "cli_fit", "cli_hints", "cli_init", "cli_labels",
    "cli_options", "cli_report", "cli_rows", "cli_run", "cli_tasks",
    "console", "console_guide", "console_progress", "console_tables", "process",
}  # fmt: skip
API = {"api", "api_messages", "api_rows"}
LAYERS = (BASE, {"lm"}, {"method"}, STAGES, {"grid"}, API, COMMAND_LINE)
LAYER = {name: number for number, layer in enumerate(LAYERS) for name in layer}
# Which stages may import `lm` and `method`: GPT3Mix, and a classifier that prompts.
STAGES_WITH_LM = {"augment", "train"}

# Library -> the modules (or packages) that may import it, inside a function.
HEAVY = {
    "aiohttp": {"lm.openai"},
    "datasets": {"folders", "labelled_rows"},
    "datasketch": {"near_duplicates"},
    "gguf": {"lm.local"},
    "httpx2": {"lm.openai"},
    "huggingface_hub": {
        "augment.card",
        "labelled_rows",
        "lm.local",
        "pretrained",
        "train",
        "user_cache",
    },
    "joblib": {"grid.executors"},
    "matplotlib": {"report.render.plots"},
    "numpy": {"method.labels", "method.selection", "report", "train"},
    "openai": {"lm.openai"},
    "openpyxl": {"folders", "workbook_tables"},
    "pandas": {"api", "api_rows", "report"},
    "pyarrow": {"tables", "text_tables"},
    "ray": {"grid.executors"},
    "safetensors": {"lm.local", "train"},
    "scipy": {"report", "train.calibration"},
    "sentence_transformers": {"train.setfit"},
    "setfit": {"train.setfit"},
    "sklearn": {"augment", "method.selection", "train"},
    "tokenizers": {"lm.local"},
    "torch": {
        "augment.mlm",
        "augment.translators",
        "grid.check",  # shows the devices
        "lm.local",
        "method.selection",
        "pretrained",
        "train",
    },
    "transformers": {
        "augment.mlm",
        "augment.translators",
        "lm.local",
        "pretrained",
        "quiet",
        "train",
    },
}
# Packages that are only imported inside functions: their modules import libraries at the top.
LAZY_PACKAGES = {"lm.local", "report"}
# Lighter libraries may be imported at the top of these modules. `--help` still loads none of them
# but typer and rich; a test of the command line checks that.
LIGHT = {
    "filelock": {"files"},
    "pydantic": {
        "classes",
        "config",
        "division",
        "lm.journaled_lm",
        "lm.openai",
        "records",
        "report.load_trials",
        "settings",
        "train.saved_models",
    },
    "rich": {"console", "console_guide", "console_progress", "console_tables", "report.render"},
    "typer": {
        *("cli", "cli_executors", "cli_fit", "cli_init", "cli_labels"),
        *("cli_options", "cli_report", "cli_rows", "cli_run", "cli_tasks"),
    },
    "yaml": {"yaml_files"},
}


@dataclass(frozen=True)
class Import:
    """One import statement.

    Attributes:
        names: the modules that it may mean; our own begin with a dot: `.lm.port`.
        line: its line.
        function: the outermost function around it; None at the top of the module.
        typing: whether only a type checker runs it.
    """

    names: tuple[str, ...]
    line: int
    function: str | None
    typing: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


PATHS = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in PATHS.items()}
PAGES = {module for module, path in PATHS.items() if path.name == "__init__.py"}


@functools.cache
def imports_of(module: str) -> tuple[Import, ...]:
    return tuple(_walk(TREES[module], module, None, False))


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
    if isinstance(node, ast.Import):
        for alias in node.names:
            package, _, rest = alias.name.partition(".")
            yield f".{rest}" if package == "gpt3mix_cli" else alias.name
        return
    package, _, rest = (node.module or "").partition(".")
    if node.level == 0 and package != "gpt3mix_cli":
        yield node.module or ""
        return
    if node.level == 0:
        base = rest
    else:
        parts = module.split(".") if module else []
        parts = parts if module in PAGES else parts[:-1]
        parts = parts[: len(parts) - (node.level - 1)]
        base = ".".join([*parts, *([node.module] if node.module else [])])
    for alias in node.names:
        inner = f"{base}.{alias.name}".strip(".")
        yield f".{inner if inner in TREES else base}"


def own_imports(module: str) -> Iterator[tuple[str, Import]]:
    """Yield each module of ours that a module imports, with the import."""
    for statement in imports_of(module):
        for name in statement.names:
            if name.startswith("."):
                yield name[1:], statement


def top(module: str) -> str:
    return module.split(".")[0]


def is_inside(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def for_each(names: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """Make one test of a check of many modules: a thousand tests would take a minute."""

    def decorate(check: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            problems = []
            for name in names:
                try:
                    check(name)
                except AssertionError as error:
                    problems.append(f"{name}: {error}")
            assert not problems, "\n".join(problems)

        test.__doc__ = check.__doc__
        return test

    return decorate


# Layers ------------------------------------------------------------------------------------------


@for_each(TREES)
def test_imports_point_down_and_no_stage_imports_another(module: str) -> None:
    source = top(module)
    assert source in LAYER, "a new module at the top level needs its layer here"
    if module == "":
        return  # the page of the Python API names what it exports
    for imported, statement in own_imports(module):
        target, where = top(imported), f"{module}, line {statement.line} imports {imported}"
        if source == target:
            continue
        if LAYER[source] == LAYER[target]:
            assert source not in STAGES, where
        assert LAYER[target] <= LAYER[source], where
        if target in ("lm", "method") and source in STAGES:
            assert source in STAGES_WITH_LM, where


@pytest.mark.parametrize("typing", [False, True], ids=["at run time", "with types"])
def test_no_modules_import_each_other(typing: bool) -> None:
    """An import of the package itself gets its version and closes no cycle."""
    graph = {
        module: {
            imported
            for imported, statement in own_imports(module)
            if statement.function is None
            and (typing or not statement.typing)
            and imported not in ("", module)
        }
        for module in TREES
    }
    list(graphlib.TopologicalSorter(graph).static_order())


def variants() -> dict[str, str]:
    """Return variant -> its opener's module: modules that an `open_...` function imports."""
    return {
        imported: module
        for module in TREES
        for imported, statement in own_imports(module)
        if (statement.function or "").startswith("open_") and top(imported) == top(module)
        if top(module) in ("lm", "augment", "train")
    }


# `plan` renders the prompts of GPT3Mix and of the classifier that prompts.
VARIANT_USERS = {
    "grid.augment_estimate": {"augment.gpt3mix"},
    "grid.plan": {"augment.gpt3mix", "train.prompt"},
}
# SetFit's head is the logistic regression of `linear`.
SHARED = {"train.setfit": {"train.linear"}}


@for_each(sorted(variants()))
def test_only_its_opener_imports_a_variant(variant: str) -> None:
    for module in TREES:
        for imported, statement in own_imports(module):
            if imported != variant or top(module) == top(variant):
                continue
            where = f"{module}, line {statement.line} imports {variant}"
            assert variant in VARIANT_USERS.get(module, set()), where
    siblings = set(variants()) - {variant} - SHARED.get(variant, set())
    assert not {imported for imported, _ in own_imports(variant)} & siblings


def test_every_kind_of_variant_has_an_opener() -> None:
    assert {top(variant) for variant in variants()} == {"lm", "augment", "train"}


# Libraries ---------------------------------------------------------------------------------------


@for_each(TREES)
def test_libraries_are_imported_where_they_belong(module: str) -> None:
    for statement in imports_of(module):
        for name in statement.names:
            library, where = name.split(".")[0], f"{module}, line {statement.line} imports {name}"
            if library in HEAVY:
                assert is_inside(module, HEAVY[library]), where
                lazy = statement.function or statement.typing or is_inside(module, LAZY_PACKAGES)
                assert lazy, where
            if library in LIGHT:
                assert is_inside(module, LIGHT[library]), where


@for_each([m for m in TREES if not is_inside(m, LAZY_PACKAGES)])
def test_a_lazy_package_is_imported_inside_functions(module: str) -> None:
    for imported, statement in own_imports(module):
        if is_inside(imported, LAZY_PACKAGES):
            assert statement.function or statement.typing, f"{module}, line {statement.line}"


def test_the_reader_of_imports_sees_known_imports() -> None:
    assert ("lm", None) in {
        (imported, statement.function) for imported, statement in own_imports("augment.gpt3mix")
    }
    openers = {(imported, statement.function) for imported, statement in own_imports("lm.port")}
    assert ("lm.local.engine", "open_lm") in openers
    torch = [item for item in imports_of("train.transformer") if item.names == ("torch",)]
    assert any(item.typing for item in torch)
    assert any(item.function for item in torch)


# Shape -------------------------------------------------------------------------------------------


@for_each(TREES)
def test_a_file_has_at_most_400_lines(module: str) -> None:
    assert len(PATHS[module].read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@for_each(TREES)
def test_a_function_has_at_most_seven_parameters(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if any(ast.unparse(item).startswith("app.") for item in node.decorator_list):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        assert len(names) <= MAX_PARAMETERS, f"{module}, line {node.lineno}: {node.name}"


@for_each(sorted(PAGES - {""}))
def test_a_page_only_exports(page: str) -> None:
    """A docstring, imports and `__all__`; the package's own page also loads its names lazily."""
    docstring, *statements = TREES[page].body
    assert isinstance(docstring, ast.Expr)
    for statement in statements:
        is_all = isinstance(statement, ast.Assign) and ast.unparse(statement.targets) == "__all__"
        assert is_all or isinstance(statement, ast.ImportFrom), f"{page}, line {statement.lineno}"


# Behaviour that belongs to one place -------------------------------------------------------------

STREAMS_OF_FILES = {
    "sys.stdout.buffer",
    "sys.stdout.buffer.write",
    "sys.stdout.buffer.flush",
    "sys.stdout",
    "sys.stdin",
    "sys.stdin.fileno",
}
ALLOWED = {
    "files": STREAMS_OF_FILES,
    "grid.executors.processes": {"os._exit"},  # a worker whose parent has gone
    "grid.executors.ray_cluster": {"sys.stdout"},  # keeps what Ray prints away from it
}


@for_each([module for module in TREES if module not in COMMAND_LINE])
def test_only_the_command_line_prints_reads_arguments_and_exits(module: str) -> None:
    for node in ast.walk(TREES[module]):
        text = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
        forbidden = text in ("print", "exit", "quit", "os._exit", "SystemExit") or text.startswith(
            ("sys.std", "sys.exit", "sys.argv")
        )
        where = f"{module}, line {getattr(node, 'lineno', 0)}: {text}"
        assert not forbidden or text in ALLOWED.get(module, set()), where
    assert not [item.line for item in imports_of(module) if "logging" in item.names]


@for_each(TREES)
def test_no_global_generator_is_seeded_or_drawn_from(module: str) -> None:
    """torch's is seeded in a classifier, inside a fork that restores the caller's state."""
    imports_random = "import random" in map(ast.unparse, TREES[module].body)
    for node in ast.walk(TREES[module]):
        if not isinstance(node, ast.Call):
            continue
        called, where = ast.unparse(node.func), f"{module}, line {node.lineno}"
        assert not called.startswith(("np.random.", "numpy.random.")), where
        seeds_torch = called in ("torch.manual_seed", "torch.cuda.manual_seed_all")
        assert not seeds_torch or module == "train.transformer", where
        if called.startswith("random.") and imports_random:
            assert called == "random.Random", where


@for_each([module for module in TREES if top(module) != "settings"])
def test_kinds_differ_by_what_they_declare(module: str) -> None:
    """No `isinstance(x, PromptSettings)`; only the port knows which LM costs money."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            kind = ast.unparse(node.args[1])
            allowed = module == "lm.port" and kind == "OpenAISettings"
            where = f"{module}, line {node.lineno}: {kind}"
            assert allowed or not kind.endswith("Settings"), where
