"""A notebook with a live kernel, as tests drive one."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError


class Notebook:
    """A notebook with a live kernel; cells are added and run one by one."""

    def __init__(self) -> None:
        self.notebook = nbformat.v4.new_notebook()
        self.client = NotebookClient(self.notebook, kernel_name="python3", timeout=60)
        self.cell: Any = None

    def __call__(self, source: str) -> str:
        """Run a new cell; return the texts of its output. Raises CellExecutionError as "Run All" would."""
        self.cell = nbformat.v4.new_code_cell(source)
        self.notebook.cells.append(self.cell)
        self.client.execute_cell(self.cell, len(self.notebook.cells) - 1)
        return self.text()

    def text(self, cell: Any = None) -> str:
        """Return the texts of a cell's output so far, the last one's when none is given."""
        cell = self.cell if cell is None else cell
        texts = []
        for output in cell.outputs:
            texts += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
        return "\n".join(text for text in texts if text)

    def fails(self, source: str) -> CellExecutionError:
        """Run a cell that fails; return the error."""
        with pytest.raises(CellExecutionError) as caught:
            self(source)
        return caught.value

    def kinds(self) -> list[str]:
        """Return the last cell's outputs' types."""
        return [output["output_type"] for output in self.cell.outputs]

    def restart(self) -> None:
        """Restart the kernel, as the button does: another process with the same connection file."""
        run_sync(self.client.km.restart_kernel)(now=True)
        run_sync(self.client.kc.wait_for_ready)(timeout=30)

    def end(self) -> None:
        """End the kernel, as the button does."""
        run_sync(self.client.km.shutdown_kernel)(now=True)
