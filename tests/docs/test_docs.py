"""The code in the documentation, run as a reader would run it.

A block of ``python`` in a page is a whole program.  It must end well and silently, and print what the block
of ``text`` right after it says; or end as the block of ``pytb`` right after it says, in its last line.
Comments right before it restrict that: ``<!-- only: fork, spawn -->`` to start methods,
``<!-- needs: joblib, tqdm -->`` to where packages are installed; ``<!-- not run: REASON -->`` is for a
program that no test can run; ``<!-- may write errors: REASON -->`` is for one that may do so and end well.
"""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import typing
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import pytest

import poollock
from helpers import METHODS

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
LOOKALIKES = {"code", "code-block", "doctest", "py", "python3", "sourcecode"}  # would not be run
RULES = {"only", "needs", "not run", "may write errors"}
LIMIT = 50  # seconds

FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,}|~{3,}|:{3,})\s*(?P<language>.*?)\s*")
COMMENT = re.compile(r"<!-- (?P<rule>[^:]+): (?P<value>.+) -->")


class Block(NamedTuple):
    """A fenced block: its language, its text, and what stands between it and the block before."""

    language: str
    text: str
    before: list[str]


def blocks_of(page: Path) -> Iterator[Block]:
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    before: list[str] = []
    for line in lines:
        fence = FENCE.fullmatch(line)
        if fence is None:
            before += [line] if line.strip() else []
            continue
        inside: list[str] = []
        for inner in lines:
            if inner.strip() == fence["fence"]:
                break
            inside.append(inner.removeprefix(fence["indent"]) + "\n")
        yield Block(fence["language"], "".join(inside), before)
        before = []


class Program(NamedTuple):
    """A program in a page, and what comes of it."""

    name: str
    code: str
    rules: dict[str, str]
    output: str | None
    error: str | None

    def names(self, rule: str) -> list[str]:
        """What a rule lists."""
        return [name.strip() for name in self.rules.get(rule, "").split(",") if name.strip()]


def programs_of(page: Path) -> Iterator[Program]:
    number = 0
    for block, after in pairwise([*blocks_of(page), Block("", "", [])]):
        if block.language != "python":
            continue
        number += 1
        name = f"{page.relative_to(DOCS).with_suffix('').as_posix()}-{number}"
        rules: dict[str, str] = {}
        for line in reversed(block.before):
            comment = COMMENT.fullmatch(line)
            if comment is None:
                break
            rules[comment["rule"]] = comment["value"]
        follows = "" if after.before else after.language
        yield Program(
            name,
            block.text,
            rules,
            output=after.text if follows == "text" else None,
            error=after.text.splitlines()[-1] if follows == "pytb" else None,
        )


PROGRAMS = [program for page in PAGES for program in programs_of(page)]


def runs_of(program: Program) -> Iterator[Any]:
    """Each program runs once by default, and with the other start methods in the gate."""
    methods = [method for method in METHODS if method in (program.names("only") or METHODS)]
    for method in methods:
        marks = [] if method == methods[0] else [pytest.mark.slow]
        yield pytest.param(program, method, id=f"{program.name}-{method}", marks=marks)


def run(program: Path, method: str, directory: Path) -> tuple[int, str, str]:
    """Run a program as it is, with another default start method; return its status and what it wrote."""
    (directory / "sitecustomize.py").write_text(
        f"import multiprocessing\nmultiprocessing.set_start_method({method!r}, force=True)\n"
    )
    path = os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))
    # Every pool that replaces a worker forks while its own threads run, which Python 3.12 warns of.
    # And Dask warns if another test has a cluster whose dashboard has the usual port.
    ignored = ["ignore:This process:DeprecationWarning", "ignore:Port :UserWarning"]
    warnings = ["-W", "error", *(part for text in ignored for part in ("-W", text))]
    with subprocess.Popen(
        [sys.executable, *warnings, str(program)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, error = process.communicate(timeout=LIMIT)
        except BaseException:
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, output, error


@pytest.mark.parametrize(("program", "method"), [run for program in PROGRAMS for run in runs_of(program)])
def test_program(program: Program, method: str, tmp_path: Path) -> None:
    if "not run" in program.rules:
        pytest.skip(program.rules["not run"])
    missing = [name for name in program.names("needs") if find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    file = tmp_path / "program.py"
    file.write_text(program.code, encoding="utf-8")
    status, output, error = run(file, method, tmp_path)
    if program.error is not None:
        assert status != 0
        # From Python 3.14 on, notes say what was being pickled.
        lines = [line for line in error.splitlines() if not line.startswith("when serializing ")]
        assert lines[-1] == program.error
    else:
        assert (status, "" if "may write errors" in program.rules else error) == (0, "")
    if program.output is not None:
        assert output == program.output


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_blocks(page: Path) -> None:
    """What would not be run, by mistake: a block of no known language, or a rule that is not one."""
    for block in blocks_of(page):
        language = re.fullmatch(r"([a-z]+)|\{([a-z:-]+)\}.*", block.language)
        assert language is not None, block.text
        assert LOOKALIKES.isdisjoint(language.groups()), block.text
    for program in programs_of(page):
        assert program.rules.keys() <= RULES
        assert set(program.names("only")) <= {"fork", "spawn", "forkserver"}


def test_there_are_programs() -> None:
    assert {program.name for program in PROGRAMS} >= {"index-1", "tutorial-1"}


REFERENCE = (DOCS / "reference.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", poollock.__all__)
def test_reference(name: str) -> None:
    """The reference has each public name, and each member of it that says what it does."""
    entry = re.search(rf"^\.\. auto\w+:: poollock\.{name}\b.*?(?=^\S)", REFERENCE, re.DOTALL | re.MULTILINE)
    assert entry is not None
    public: Any = getattr(poollock, name)
    bases: tuple[type, ...] = getattr(public, "__mro__", (public,))
    own = [base for base in bases if base is public or base.__module__.startswith("poollock._")]
    listed = set(re.findall(r"^   \.\. auto\w+:: (\w+)$", entry[0], re.MULTILINE))
    assert listed == {
        member
        for base in own
        for member, value in vars(base).items()
        if isinstance(value, (FunctionType, classmethod, property)) and value.__doc__ and member[0] != "_"
    }


def parameters_of(function: Any) -> dict[str, Any]:
    """Its named parameters and their defaults."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # an exception without a constructor of its own
        return {}
    return {p.name: p.default for p in parameters if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}}


@pytest.mark.parametrize("name", poollock.__all__)
def test_the_reference_hides_no_parameters(name: str) -> None:
    if f":: poollock.{name}()\n" in REFERENCE:
        assert parameters_of(getattr(poollock, name)) == {}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no typing.get_overloads")
def test_overloads_have_the_defaults_of_what_is_called() -> None:
    """An editor shows the overloads; ``help()`` and the reference show the function."""
    functions = [value for value in vars(poollock.LockedPool).values() if isinstance(value, FunctionType)]
    overloads = {function: typing.get_overloads(function) for function in functions}
    assert sum(map(len, overloads.values())) >= 15
    for function, its_overloads in overloads.items():
        for overload in its_overloads:
            assert parameters_of(overload) == parameters_of(function), function.__name__
