"""Runs notebooks of the repository and reads what they show."""

import pathlib

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"


def run(name, *, then=(), timeout=300):
  """Executes a notebook in its folder.

  Args:
    name: str, without the extension.
    then: sequence of str, further cells at the end.
    timeout: int, seconds for one cell.

  Returns:
    The notebook, with outputs.
  """
  import nbclient
  import nbformat

  nb = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
  nb.cells += [nbformat.v4.new_code_cell(source) for source in then]
  nbclient.NotebookClient(
    nb,
    timeout=timeout,
    kernel_name="python3",
    resources={"metadata": {"path": str(FOLDER)}},
  ).execute()
  return nb


def outputs(nb):
  """All outputs, of all cells."""
  return [o for c in nb.cells for o in c.get("outputs", ())]


def texts(nb):
  """What the notebook prints, and its number of pictures."""
  found = outputs(nb)
  text = "".join(
    o.text for o in found if o.output_type == "stream" and o.name == "stdout"
  )
  return text, sum("image/png" in o.get("data", {}) for o in found)


def tables(nb):
  """The HTML of what the notebook shows as such, in order."""
  data = [o.get("data", {}) for o in outputs(nb)]
  return [d["text/html"] for d in data if "text/html" in d]
