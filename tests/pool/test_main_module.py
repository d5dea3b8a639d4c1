"""What is defined in the main module: in a program, in one from standard input, in the REPL."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers import METHODS, Factory, environment
from typed_in import OUTPUT, TYPED_IN

METHOD = pytest.mark.parametrize("method", METHODS)
WITH_CLOUDPICKLE = pytest.mark.skipif(find_spec("cloudpickle") is None, reason="cloudpickle is not installed")


def run(
    *arguments: str, program: str | None = None, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", *arguments],
        input=program,
        env=environment(*filter(None, [path])),
        capture_output=True,
        text=True,
        check=False,
    )


@WITH_CLOUDPICKLE
@METHOD
@pytest.mark.parametrize("how", [["-"], ["-i", "-q"]], ids=["stdin", "repl"])
def test_typed_in_and_defined_anew(factory: Factory, method: str, how: list[str]) -> None:
    done = run(*how, program=TYPED_IN.format(factory=factory.__name__, method=method))
    assert (done.stdout, done.returncode) == (OUTPUT, 0), done.stderr
    if how == ["-"]:
        assert done.stderr == ""


PROGRAM = """
import sys
from poollock import locked_pool

counter = []

class Point:
    pass

def initialize():
    counter.append(1)

def count():
    return len(counter)

def point(x):
    return Point()

def version():
    return 1

if __name__ == "__main__":
    def guarded(x):
        return x + 1

    def version():
        return 2

    with locked_pool(1, initialize, context=sys.argv[1]) as pool:
        # What workers have goes by its name: the initializer's variable is the task's.
        print(pool.apply(count), type(pool.apply(point, (Point(),))) is Point)
        print(pool.apply(lambda: count()), "cloudpickle" in sys.modules)
        try:
            print(pool.map(guarded, [1]), pool.apply(version))
        except Exception as error:
            print(type(error).__name__, error)
"""


@WITH_CLOUDPICKLE
@METHOD
def test_program(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = run(str(program), method)
    assert (done.stdout, done.stderr) == ("1 True\n1 True\n[2] 2\n", "")


@METHOD
def test_program_without_lambdas_does_not_load_cloudpickle(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        PROGRAM.replace("lambda: count()", "count").replace(
            "print(pool.map(guarded, [1]), pool.apply(version))", "pass"
        )
    )
    done = run(str(program), method)
    assert (done.stdout, done.stderr) == ("1 True\n1 False\n", "")


@WITH_CLOUDPICKLE
@METHOD
def test_module_that_is_run_by_its_name(method: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run("-m", "program", method, path=tmp_path)
    assert (done.stdout, done.stderr) == ("1 True\n1 True\n[2] 2\n", "")


PACKAGE_MAIN = """
from poollock import locked_pool

def square(x):
    return x * x

if __name__ == "__main__":
    with locked_pool(1, context={method!r}) as pool:
        print(pool.map(square, range(3)))
"""


@WITH_CLOUDPICKLE
@METHOD
def test_main_of_a_package(method: str, tmp_path: Path) -> None:
    """For multiprocessing, workers do not import it."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__main__.py").write_text(PACKAGE_MAIN.format(method=method))
    done = run("-m", "package", path=tmp_path)
    assert (done.stdout, done.stderr) == ("[0, 1, 4]\n", "")


@METHOD
def test_without_cloudpickle(method: str, tmp_path: Path, without_cloudpickle: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("lambda: count()", "count"))
    done = run(str(program), method, path=without_cloudpickle)
    if method == "fork":
        assert done.stdout == "1 True\n1 False\n[2] 2\n"
    else:
        assert re.search("AttributeError .*'guarded'", done.stdout)
        assert "could not be unpickled in process" in done.stdout
        assert "Or install poollock[cloudpickle], which sends such a thing as it is." in done.stdout


AFTER_A_FILE = """
from poollock import locked_pool

def square(x):
    return f"{{x}} squared"

class Point:
    def x(self):
        return 2

with locked_pool(1, context={method!r}) as pool:
    print(pool.map(square, [1]), pool.map(cube, [2]), pool.apply(Point().x))

"""


@WITH_CLOUDPICKLE
@METHOD
def test_typed_in_after_a_file(method: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "def square(x): return x * x\ndef cube(x): return x**3\nclass Point:\n    def x(self): return 1\n"
    )
    done = run("-i", "-q", str(program), program=AFTER_A_FILE.format(method=method))
    assert (done.stdout, done.returncode) == ("['1 squared'] [8] 2\n", 0), done.stderr
