"""The notebooks among the examples run from top to bottom in a kernel of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.notebooks, pytest.mark.filterwarnings("default")]

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
SAID = {
    "first_prompt": ("remarks@2 is not promoted to production, where remarks@1 is", "'version 2: ", "'version 1: "),
    "many_prompts": ("largest gap between a probability alone and in the mixed batch",),
    "look_inside": ("'version': 1", "not_learnt", "Not compared: "),
}
"""What each of them must have said in the end, in this order."""


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.glob("*.ipynb")))
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    import nbclient
    import nbformat

    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "\n".join(output.get("text") or output.get("data", {}).get("text/plain") or "" for output in outputs)
    at = 0
    for words in SAID[name]:
        at = said.find(words, at)
        assert at >= 0, f"{name} does not say {words!r} where it should:\n{said}"
    assert not list(tmp_path.iterdir()), "a notebook leaves nothing in the folder that it is run in"
