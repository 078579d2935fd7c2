"""The command `cifar-jax`: run main.py of the checkout that an editable install points to."""

import pathlib
import runpy
import sys


def main() -> None:
  """Run main.py with this command's flags, as `python main.py` would."""
  checkout = pathlib.Path(__file__).resolve().parents[1]
  program = checkout / "main.py"
  if not (program.exists() and (checkout / "pyproject.toml").exists()):
    sys.exit(
      f"error: cifar-jax: {checkout} is not a checkout of the project; clone the repository and "
      "run 'pip install -e .' in it"
    )
  sys.argv[0] = str(program)
  sys.path.insert(0, str(checkout))
  runpy.run_path(str(program), run_name="__main__")


if __name__ == "__main__":
  main()
