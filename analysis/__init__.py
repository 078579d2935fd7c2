"""Tools for trained runs: one module per mode of main.py, and `load_run` for notebooks.

from analysis import load_run

run = load_run("/tmp/run")
probabilities = run.predict(images)  # uint8 [n, height, width, channels]
"""

import importlib.util
import pathlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from analysis.run import Run, load_run

__all__ = ["Run", "load_run"]

_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
_NEIGHBOURS = ("configs", "input_pipeline", "models")  # top-level names that other projects use too


def __getattr__(name: str) -> Any:
  """Import `Run` and `load_run` on first use, because JAX takes seconds to import."""
  if name not in __all__:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  _raise_if_shadowed()
  from analysis import run

  return getattr(run, name)


def _raise_if_shadowed() -> None:
  """Raise ImportError if another project's module shadows one of this checkout."""
  for name in _NEIGHBOURS:
    module = sys.modules.get(name)
    spec = module.__spec__ if module else importlib.util.find_spec(name)
    origin = getattr(module, "__file__", None) or (spec.origin if spec else None)
    if origin is None or not pathlib.Path(origin).resolve().is_relative_to(_CHECKOUT):
      raise ImportError(
        f"{name}: Python finds {origin or 'no file'}, not the module in {_CHECKOUT}; put this "
        "folder first in sys.path and restart Python"
      )
