"""How Sphinx builds the documentation: ``sphinx-build -n -W --keep-going docs docs/_build``."""  # noqa: INP001

from importlib.metadata import version as version_of
from urllib.request import urlopen

project = "poollock"
author = "The poollock developers"
copyright = "The poollock developers"  # noqa: A001 - Sphinx's name for it
version = release = version_of("poollock")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = "poollock"

myst_heading_anchors = 3

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # "Attributes:" stay a list

# Type variables, and what is imported for type checkers only.
nitpick_ignore_regex = [
    ("py:class", r"(.*\.)?_[A-Z]\w*"),
    ("py:class", r"AsyncResult|IMapIterator|MapResult|LockedPool|TracebackType"),
]

_PYTHON = "https://docs.python.org/3/"


def _python_answers() -> bool:
    try:
        with urlopen(f"{_PYTHON}objects.inv", timeout=5):
            return True
    except OSError:
        return False


if _python_answers():
    intersphinx_mapping = {"python": (_PYTHON, None)}
else:  # without a network, the names of the standard library are no links
    nitpick_ignore_regex += [
        (
            "py:.*",
            r"(abc|collections|concurrent|contextlib|functools|io|logging|multiprocessing|os|signal|types|typing)"
            r"(\..*)?",
        ),
    ]
