"""The packages import one way: none knows one that stands on it, and no two modules know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

from helpers import PACKAGE

# Each package, or file at the top, with those that it may import; anything may import the first two.
MAY_IMPORT = {
    "_checks": set[str](),
    "_typing": set[str](),
    "_backend": set[str](),
    "_errors": {"_backend"},
    "_broken": {"_backend", "_errors"},
    "_locks": {"_backend", "_errors"},
    "_log": {"_backend"},
    "_trace": {"_backend", "_errors", "_locks"},
    "_worker": {"_backend", "_errors", "_locks", "_trace"},
    "_manager": {"_backend", "_errors", "_locks"},
    "_supervisor": {"_backend", "_errors", "_broken", "_locks", "_trace", "_worker"},
    "_pool": {"_backend", "_errors", "_broken", "_locks", "_trace", "_worker", "_supervisor"},
    "dask": {"_backend", "_errors", "_broken", "_locks", "_worker", "_supervisor", "_pool"},
    "__main__": {"_trace"},
    "_factories": {"_backend", "_errors", "_broken", "_locks", "_worker", "_supervisor", "_pool", "_manager"},
}
TREES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in PACKAGE.rglob("*.py")
}


def package(module: str) -> str:
    return module.partition(".")[0]


def imports(module: str) -> Iterator[tuple[str, int, bool]]:
    """What a module imports of ours, anywhere in it; how many dots it has; whether it is for types."""
    blocks = [node for node in ast.walk(TREES[module]) if isinstance(node, ast.If)]
    typing = [block for block in blocks if ast.unparse(block.test) == "TYPE_CHECKING"]
    for_types = {id(inner) for block in typing for inner in ast.walk(block)}
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["poollock", *module.split(".")][: -node.level] if node.level else []
            start = ".".join([*base, *filter(None, [node.module])])
            names = [start, *[f"{start}.{alias.name}" for alias in node.names]]
        else:
            continue
        for name in names:
            ours = "__init__" if name == "poollock" else name.removeprefix("poollock.")
            if ours in TREES:
                yield ours, getattr(node, "level", 0), id(node) in for_types


def test_packages_import_one_way() -> None:
    assert {*map(package, TREES)} == {"__init__", *MAY_IMPORT}
    wrong = [
        f"{module} imports {other}"
        for module in TREES.keys() - {"__init__"}
        for other, _, _ in imports(module)
        if package(other) not in {package(module), "_checks", "_typing", *MAY_IMPORT[package(module)]}
    ]
    assert wrong == []


def test_no_two_modules_import_each_other() -> None:
    """Directly or not; within a package, types may refer to each other."""
    graph = {
        module: {
            o for o, _, for_types in imports(module) if not (for_types and package(o) == package(module))
        }
        for module in TREES
    }
    TopologicalSorter(graph).prepare()


def test_imports_within_a_package_are_relative() -> None:
    wrong = [
        f"{module} imports {other}"
        for module in TREES
        if "." in module
        for other, level, _ in imports(module)
        if level != (package(module) == package(other))
    ]
    assert wrong == []
