"""What the gate, `.ci/run`, runs: linters, packages, the tests on each Python here, the documentation.

`nox` runs all of it, `nox -l` lists it, and `nox -s tests-3.12 -- tests/log` runs some tests on one Python.
"""

import os
import sys
import tempfile
from pathlib import Path

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]
DEFAULT = f"{sys.version_info.major}.{sys.version_info.minor}"

# Interpreters of version managers that are not on the PATH, or only as shims that may refuse.
_home = Path.home()
_places = [
    Path(os.environ.get("PYENV_ROOT", _home / ".pyenv")) / "versions",
    _home / ".local/share/uv/python",
    _home / ".asdf/installs/python",
]
_found = [str(bin_) for version in PYTHONS for place in _places for bin_ in place.glob(f"*{version}.*/bin")]
os.environ["PATH"] = os.pathsep.join([*_found, os.environ["PATH"]])

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
# The default Python runs all tests, so that it need not run some.
nox.options.sessions = [
    "lint",
    "packages",
    "suite",
    *[f"tests-{version}" for version in PYTHONS if version != DEFAULT],
    "windows",
    "oldest_dask",
    "docs",
]


@nox.session
def lint(session: nox.Session) -> None:
    """Run the linters and the type checkers."""
    session.install(".[dev]")
    session.run("ruff", "check", "--quiet", ".")
    session.run("ruff", "format", "--check", "--quiet", ".")
    session.run("mypy")
    windows = ["src/poollock/_backend/windows.py", "src/poollock/_backend/flock.py", "tests/windows"]
    session.run("mypy", "--platform", "win32", "--follow-imports", "silent", *windows)
    session.run("pyright", "--pythonpath", f"{session.bin}/python")
    with session.chdir(session.create_tmp()):  # elsewhere, or pyright would look at the sources
        session.run("pyright", "--verifytypes", "poollock", "--ignoreexternal")


@nox.session
def packages(session: nox.Session) -> None:
    """Build the packages, and check what they say of themselves."""
    session.install("build", "twine")
    folder = Path(session.create_tmp())
    for old in folder.glob("poollock-*"):
        old.unlink()
    session.run("python", "-m", "build", "--quiet", "--outdir", str(folder))
    session.run("twine", "check", "--strict", *map(str, folder.glob("poollock-*")))


@nox.session
def suite(session: nox.Session) -> None:
    """Run all tests, the slow ones too."""
    session.install("-e", ".[test,dask]")
    session.run("python", "-m", "pytest", "-m", "", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests that `python -m pytest` runs, on one Python."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(venv_backend="none")
def windows(session: nox.Session) -> None:
    """Run the tests of what is particular to Windows, with its Pythons, under Wine, where that can be had.

    Not the slow ones, which repeat others: `nox -s windows -- -m slow tests/windows` runs these.
    """
    script = Path("../shared/bin/windows-check").resolve()
    if not script.exists():
        session.skip(f"NOT RUN under Wine: {script} is not there")
    # One at a time: it has one place for the sources, and ends what else runs under its Wine.  -o: a server
    # of Wine that is left, because the time was up, must not keep the lock.
    lock = Path(tempfile.gettempdir(), "windows-check.lock")
    command = ["flock", "-o", str(lock), "timeout", "600", "bash", str(script)]
    probe = Path(session.create_tmp(), "probe.py").resolve()
    probe.write_text("import sys; print(sys.platform)\n")
    plain = ["--override-ini=addopts=--strict-markers", "-ra", "-q", "--timeout=0"]  # whose timer is a thread
    plain.append("--override-ini=faulthandler_timeout=60")  # says where a test hangs
    for version in ("313", "310"):
        # Without what create_tmp() sets: Wine's server crashes if there is a TMPDIR.
        env = {"SOURCE": "src", "VERSION": version, "TMPDIR": None}
        said = session.run(
            *command, str(probe), env=env, external=True, silent=True, success_codes=range(-64, 256)
        )
        if "win32" not in str(said).splitlines():
            session.skip(f"NOT RUN under Wine: its Python {version} cannot be had here:\n{said}")
        tests = session.posargs or ["tests/windows"]
        session.run(*command, "-m", "pytest", *plain, "-m", "not slow", *tests, env=env, external=True)


@nox.session(python=PYTHONS[0])
def oldest_dask(session: nox.Session) -> None:
    """Run the tests that need a cluster with the oldest Dask that `pyproject.toml` allows."""
    session.install("-e", ".[test,dask]", "distributed==2024.8.0")
    session.run("python", "-m", "pytest", "tests/cluster", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Run the documentation's programs, with the packages that they need, and build it."""
    session.install("-e", ".[docs,test,bench,examples,dask]")
    session.run("python", "-m", "pytest", "tests/docs/test_docs.py")
    session.run("sphinx-build", "-n", "-W", "--keep-going", "docs", "docs/_build", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Say which lines of `src` the tests do not reach, in child processes neither."""
    session.install("-e", ".[test]", "coverage>=7.13")
    folder = Path(session.create_tmp()).resolve()
    for old in folder.glob(".coverage*"):
        old.unlink()
    session.env["COVERAGE_FILE"] = str(folder / ".coverage")
    # Some tests fail: coverage makes files of its own, which another user, or a limit, does not let it.
    session.run("coverage", "run", "-m", "pytest", *session.posargs, success_codes=[0, 1])
    # Silent, because it names each file that a killed worker has left half-written.
    session.run("coverage", "combine", "--quiet", silent=True)
    session.run("coverage", "report")
