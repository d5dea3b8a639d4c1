"""Pools in a real Jupyter kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers import METHODS, Factory
from typed_in import OUTPUT, TYPED_IN

pytest.importorskip("cloudpickle")
pytest.importorskip("ipykernel")
nbclient: Any = pytest.importorskip("nbclient")
nbformat: Any = pytest.importorskip("nbformat")
traitlets: Any = pytest.importorskip("traitlets.config")


@pytest.mark.parametrize("method", METHODS)
def test_cells(factory: Factory, method: str, tmp_path: Path) -> None:
    program = TYPED_IN.format(factory=factory.__name__, method=method)
    new = nbformat.v4
    notebook = new.new_notebook(cells=[new.new_code_cell(cell) for cell in program.split("\n\n")])
    # Not TCP, whose ports are chosen a second before they are opened: somebody else may have them by then.
    config = traitlets.Config({"KernelManager": {"transport": "ipc", "ip": str(tmp_path / "kernel")}})
    nbclient.NotebookClient(notebook, timeout=50, kernel_name="python3", config=config).execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert "".join(output.text for output in outputs if output.name == "stdout") == OUTPUT
    assert [output.text for output in outputs if output.name == "stderr"] == []
