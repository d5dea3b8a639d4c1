"""The tests on every Python of the machine, which `.ci/run` calls; and the documentation."""

import os
from pathlib import Path

import nox

TESTED = os.environ.get("TESTED")  # a version whose tests have run already
PYTHONS = [version for version in ("3.10", "3.11", "3.12", "3.13", "3.14") if version != TESTED]

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
nox.options.sessions = ["tests"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Run the documentation's programs, with the packages that they need, and build it."""
    session.install("-e", ".[docs,test,bench,examples]")
    session.run("python", "-m", "pytest", "tests/docs/test_docs.py")
    session.run("sphinx-build", "-n", "-W", "--keep-going", "docs", "docs/_build", *session.posargs)
