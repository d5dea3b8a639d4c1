"""The pages beside the code, for whoever works on it, are kept true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers import PACKAGE

ROOT = Path(__file__).parents[2]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in ROOT.glob("*.md")}


def test_every_package_is_named_in_the_architecture() -> None:
    packages = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert len(packages) >= 7
    page = PAGES["ARCHITECTURE.md"]
    assert [name for name in packages if f"\n| `poollock.{name}` |" not in page] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    """Of the checkout; in the architecture, of the package as well."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", PAGES[page])
    programs = re.findall(r"`(?:python )?([\w/]+\.py)`", PAGES[page])
    places = [ROOT, PACKAGE] if page == "ARCHITECTURE.md" else [ROOT]
    missing = [name for name in links + programs if not any((place / name).exists() for place in places)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_tests_that_a_page_names_are_there(page: str) -> None:
    for file, test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", PAGES[page]):
        assert f"\ndef {test}(" in (ROOT / file).read_text(encoding="utf-8")
