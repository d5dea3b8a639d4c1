"""What another process has of the main module: only that can be sent to it by its name."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from types import CodeType, FunctionType
from typing import Any, Protocol
from weakref import ref

MAIN = "__main__"

# How the code is called that was typed into the REPL, or into IPython's.
_PROMPTS = ("<stdin>", "<python-input", "<ipython-input")


class MainModule(Protocol):
    """What a process has of the main module."""

    def has(self, obj: Any) -> bool:
        """Return whether the process has *obj*, a function or a class, if here its name stands for it."""
        ...


class OwnMainModule(MainModule):
    """What the process that started this one has: all that is in the main module here came from there."""

    def has(self, obj: Any) -> bool:
        """Return True."""
        return True


class InheritedMainModule(MainModule):
    """What workers have that are forked from now on: the functions and classes that are defined now."""

    def __init__(self) -> None:
        values = list(vars(sys.modules[MAIN]).values())  # another thread may add one meanwhile
        self._inherited = {id(v): ref(v) for v in values if issubclass(type(v), (FunctionType, type))}
        # Nobody edits a program that runs.  In a notebook what a function calls may be defined anew.
        self._is_edited = main_file() is None

    def has(self, obj: Any) -> bool:
        """Return whether *obj* was defined then, and what it uses has not been defined anew since."""
        return self._is_inherited(obj) and not (self._is_edited and self._uses_new_ones(obj, set()))

    def _is_inherited(self, obj: Any) -> bool:
        root = obj if obj.__qualname__ == obj.__name__ else _find(obj.__qualname__.partition(".")[0])
        inherited = self._inherited.get(id(root))
        return inherited is not None and inherited() is root

    def _uses_new_ones(self, obj: Any, seen: set[int]) -> bool:
        seen.add(id(obj))
        for name in {name for code in _codes_of(obj) for name in _names_in(code)}:
            used = _find(name)
            if not is_of_main(used) or id(used) in seen:
                continue
            if not self._is_inherited(used) or self._uses_new_ones(used, seen):
                return True
        return False


class ImportedMainModule(MainModule):
    """What workers have that import the main module.

    Theirs is not called ``__main__``: they have nothing of what is under ``if __name__ == "__main__":``.
    """

    def __init__(self) -> None:
        self._file = main_file()
        self._known: dict[int, ref[Any]] = {}  # what they have, by its id

    def has(self, obj: Any) -> bool:
        """Return whether *obj* is of the main module's file, and not under that ``if``."""
        known = self._known.get(id(obj))
        if known is not None and known() is obj:
            return True
        if self._file is None or _was_typed_in(obj):
            return False
        names = _imported_names(self._file)
        if names is not None and obj.__qualname__.partition(".")[0] not in names:
            return False
        self._known[id(obj)] = ref(obj)
        return True


def is_of_main(obj: Any) -> bool:
    """Return whether *obj* is a function or a class of the main module."""
    return issubclass(type(obj), (FunctionType, type)) and getattr(obj, "__module__", None) == MAIN


def is_found(obj: Any) -> bool:
    """Return whether the name of *obj* stands for it, in the main module of this process."""
    return _find(obj.__qualname__) is obj


def main_file() -> str | None:
    """Return the file of the main module that workers import; None if there is none.

    There is none for a REPL, a notebook, a program that is read from standard input, and the
    ``__main__.py`` of a package, whose functions workers do not have.
    """
    main = sys.modules[MAIN]
    name = getattr(getattr(main, "__spec__", None), "name", "")
    file: str | None = getattr(main, "__file__", None)
    if file is None or name == MAIN or name.endswith(f".{MAIN}"):
        return None
    # As multiprocessing: the program may have gone to another folder since it was started.
    from multiprocessing import process  # noqa: PLC0415 - it is loaded

    start = getattr(process, "ORIGINAL_DIR", None)
    file = os.path.join(start or "", file)
    return file if os.path.exists(file) else None


def _find(qualname: str) -> Any:
    found: Any = None
    for number, name in enumerate(qualname.split(".")):
        found = getattr(found if number else sys.modules[MAIN], name, None)
    return found


def _was_typed_in(obj: Any) -> bool:
    """Return whether *obj* was typed in, after a file that has perhaps another of its name: python -i."""
    files = [code.co_filename for code in _codes_of(obj)]
    return any(file.startswith(_PROMPTS) or "ipykernel_" in file for file in files)


def _codes_of(obj: Any) -> list[CodeType]:
    functions: Iterable[Any] = vars(obj).values() if isinstance(obj, type) else [obj]
    return [function.__code__ for function in functions if isinstance(function, FunctionType)]


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


@cache
def _imported_names(file: str) -> frozenset[str] | None:
    """Return which names who imports *file* has; None if that cannot be known."""
    try:
        with open(file, "rb") as source:
            program = ast.parse(source.read()).body
    except (OSError, SyntaxError, ValueError):  # it is a program that was compiled, or in an archive
        return None
    guards = [node for node in program if isinstance(node, ast.If) and "__name__" in ast.dump(node.test)]
    not_imported = [inner for guard in guards for inner in guard.body]
    # A name that is bound in both places may stand for either.
    return frozenset(_names_bound_by(program)) - frozenset(_names_bound_by(not_imported))


def _names_bound_by(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
        else:
            yield from _names_bound_by(ast.iter_child_nodes(node))
