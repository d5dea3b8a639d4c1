"""Pools in a real Jupyter kernel."""

from __future__ import annotations

from typing import Any

import pytest

from helpers import METHODS, Factory
from typed_in import OUTPUT, TYPED_IN

pytest.importorskip("cloudpickle")
pytest.importorskip("ipykernel")
nbclient: Any = pytest.importorskip("nbclient")
nbformat: Any = pytest.importorskip("nbformat")


@pytest.mark.parametrize("method", METHODS)
def test_cells(factory: Factory, method: str) -> None:
    program = TYPED_IN.format(factory=factory.__name__, method=method)
    new = nbformat.v4
    notebook = new.new_notebook(cells=[new.new_code_cell(cell) for cell in program.split("\n\n")])
    nbclient.NotebookClient(notebook, timeout=50, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert "".join(output.text for output in outputs if output.name == "stdout") == OUTPUT
    assert [output.text for output in outputs if output.name == "stderr"] == []
