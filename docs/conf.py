"""How Sphinx builds the documentation: ``sphinx-build -n -W --keep-going docs docs/_build``."""  # noqa: INP001

import inspect
from urllib.request import urlopen

from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

import poollock

project = "poollock"
author = "The poollock developers"
copyright = "The poollock developers"  # noqa: A001 - Sphinx's name for it
version = release = poollock.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = "poollock"
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_selector = "div:not(.highlight-text):not(.highlight-pytb) > div.highlight > pre"  # not output
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

myst_heading_anchors = 3

add_module_names = False
maximum_signature_line_length = 90
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # "Attributes:" stay a list

nitpick_ignore_regex = [
    # Type variables, and what is imported for type checkers only.
    ("py:class", r"(.*\.)?_[A-Z]\w*|AsyncResult|IMapIterator|MapResult"),
    # Its public base, multiprocessing.pool.IMapIterator, takes no type variable at run time.
    ("py:class", r"poollock\._supervisor\.results\.ResultIterator"),
    # Without a network the names of the standard library are no links; and its inventory has not all of them.
    ("py:.*", r"(collections|concurrent|contextlib|io|logging|multiprocessing|os|typing)\..*"),
]

_PYTHON = "https://docs.python.org/3/"


def _python_answers() -> bool:
    try:
        with urlopen(f"{_PYTHON}objects.inv", timeout=5):  # noqa: S310 - the address stands above
            return True
    except OSError:
        return False


intersphinx_mapping = {"python": (_PYTHON, None)} if _python_answers() else {}


def _read_property(  # noqa: PLR0917 - autodoc's
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Read a property's docstring as a method's: Napoleon takes a colon in it for ``type: description``."""
    if what == "property":
        text = inspect.getdoc(obj) or ""
        lines[:] = GoogleDocstring(text, app.config, app, "method", name, obj, options).lines()


def _show_public_bases(app: Sphinx, name: str, obj: object, options: object, bases: list[type]) -> None:
    """Show the nearest public base in place of a private one."""
    bases[:] = [
        next(public for public in base.__mro__ if "._" not in public.__module__)
        for base in bases
        if isinstance(base, type)  # typing.NamedTuple is a function
    ]


def _forget_overloads() -> None:
    """Have each method shown once, as ``help()`` does.

    The overloads tell type checkers how many locks a function may ask for, in types of our own.
    """
    analyzer = ModuleAnalyzer.for_module("poollock._pool.pool")
    analyzer.analyze()
    analyzer.overloads.clear()


def setup(app: Sphinx) -> None:
    """Do what no option does."""
    _forget_overloads()
    app.connect("autodoc-process-bases", _show_public_bases)
    app.connect("autodoc-process-docstring", _read_property, priority=600)  # after Napoleon
