"""Execute the tour and store its output in docs/tour.ipynb.

python docs/execute.py            run the whole tour (some minutes) and write the notebook
python docs/execute.py --quick    run a small version to check every cell; write nothing
"""

import argparse
import os
import pathlib

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).resolve().parent


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--quick", action="store_true", help="run a small version and write nothing")
  options = parser.parse_args()
  if options.quick:
    os.environ["TOUR_QUICK"] = "1"
  notebook = jupytext.read(FOLDER / "tour.py")
  for cell in notebook.cells:
    cell.pop("id", None)
  client = NotebookClient(
    notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
  )
  client.execute()
  print(f"{sum(cell.cell_type == 'code' for cell in notebook.cells)} cells ran without an error")
  if not options.quick:
    for number, cell in enumerate(notebook.cells):
      cell["id"] = f"cell-{number}"  # the same in every execution
      cell.metadata.pop("execution", None)
    nbformat.write(notebook, FOLDER / "tour.ipynb")


if __name__ == "__main__":
  main()
