"""Can the committed records still be reproduced? Repeat the first epochs of the cheapest ones.

  python -m benchmarks.robustness.reruns

Each record is repeated by --mode=rerun, which is explained in docs/trust.md. The exit code is 1 if
a record differs. Where the bits are not those of the record, seven further seeds are trained for as
many epochs, to find out how much seeds differ.

Needs CIFAR-10. By the recorded times, one epoch of all three takes a minute on two CPU cores, or
eight minutes with further seeds, plus the starts.
"""

import argparse
import pathlib
import sys
import tempfile

import jax

from benchmarks import records
from cifar_jax.runtime import console
from trust import rerun

_CHEAPEST = ["report002_model2", "quickstart", "report002_model3"]


def main() -> int:
  """Repeat the records; return the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("records", nargs="*", default=_CHEAPEST, help="default: %(default)s")
  parser.add_argument("--epochs", type=int, default=1, help="of each record")
  options = parser.parse_args()
  console.show_log()
  jax.config.update("jax_platforms", "cpu")  # the trainings run in other processes
  worst = 0
  for name in options.records:
    with tempfile.TemporaryDirectory() as folder:
      path = records.RESULTS.parent / name
      text, code = rerun.rerun(str(path), pathlib.Path(folder) / "run", options.epochs)
    print(f"{text}\n", flush=True)
    worst = max(worst, code)
  return worst


if __name__ == "__main__":
  sys.exit(main())
