"""Do two networks that train at once in one process ever deadlock, or leak memory?

  python -m benchmarks.robustness.endurance --steps=10000

trains two networks on random images, each in its own thread, so that the convolutions of both share
XLA's thread pool all the time. A row is a tenth of the steps: the seconds, the memory of the
process, and the longest wait for a hundred steps. A wait of more than `--patience` seconds is a
deadlock: the benchmark prints the stacks of all threads, and exits with 1. It also exits with 1 if
the parameters after a tenth of the steps are not, bit for bit, those of each network trained alone.
"""

import argparse
import faulthandler
import sys
import threading
import time

import jax
import numpy as np

from benchmarks import records
from benchmarks.speed import ours

_MODELS = {"simple_cnn": {"model.widths": (16, 16, 32)}, "resnet20": {}}
_BLOCK = 100  # steps between two readings of the clock
_COLUMNS = ["steps", "seconds", "memory MB", "longest s"]


def main() -> None:
  parser = records.bare_parser(__doc__, "endurance")
  parser.add_argument("--steps", type=int, default=10_000, help="of each network")
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--patience", type=float, default=120, help="seconds for 100 steps")
  options = records.parse(parser)
  record = records.Record("endurance", options, _COLUMNS)
  with records.images(None, train=1000, test=10) as data_dir:
    run(options, data_dir, record)


def run(options: argparse.Namespace, data_dir: str, record: records.Record) -> None:
  """Train both networks in tenths, and record each."""
  trainers = [_trainer(name, data_dir, options.batch) for name in _MODELS]
  tenth = max(options.steps // 10 // _BLOCK, 1) * _BLOCK
  expected = [_alone(name, data_dir, options.batch, tenth) for name in _MODELS]
  for number in range(1, 11):
    start = time.monotonic()
    waits = _train_at_once(trainers, tenth, options.patience)
    row = {"steps": number * tenth, "seconds": time.monotonic() - start}
    record.add(row | {"memory MB": _memory_mb(), "longest s": max(waits)})
    if number == 1:
      for trainer, arrays in zip(trainers, expected, strict=True):
        for array, other in zip(_arrays(trainer), arrays, strict=True):
          if not np.array_equal(array, other):
            sys.exit("error: networks trained together have other bits than alone")


def _trainer(name: str, data_dir: str, batch: int) -> ours.Trainer:
  fields = {**_MODELS[name], "dtype": "auto"}
  return ours.Trainer(ours.make_config(name, data_dir, batch, fields), "augmented")


def _alone(name: str, data_dir: str, batch: int, steps: int) -> list[np.ndarray]:
  trainer = _trainer(name, data_dir, batch)
  trainer.run(steps)
  return _arrays(trainer)


def _arrays(trainer: ours.Trainer) -> list[np.ndarray]:
  return [np.asarray(leaf) for leaf in jax.tree.leaves(trainer.state.params)]


def _train_at_once(trainers: list[ours.Trainer], steps: int, patience: float) -> list[float]:
  """Train each network in a thread for `steps` steps; return their longest waits for a block."""
  longest = [0.0] * len(trainers)
  last = [time.monotonic()] * len(trainers)

  def train(i: int) -> None:
    for _ in range(steps // _BLOCK):
      trainers[i].run(_BLOCK)
      now = time.monotonic()
      longest[i], last[i] = max(longest[i], now - last[i]), now

  threads = [threading.Thread(target=train, args=(i,), daemon=True) for i in range(len(trainers))]
  for thread in threads:
    thread.start()
  while any(thread.is_alive() for thread in threads):
    threads[0].join(timeout=1)
    waiting = [
      i
      for i, thread in enumerate(threads)
      if thread.is_alive() and time.monotonic() - last[i] > patience
    ]
    if waiting:
      faulthandler.dump_traceback()
      names = ", ".join(list(_MODELS)[i] for i in waiting)
      sys.exit(f"error: {names}: no progress for {patience:g} s; see the stacks above")
    time.sleep(0.2)
  return longest


def _memory_mb() -> float:
  """Return the current memory of this process in MB."""
  with open("/proc/self/status") as file:
    line = next(line for line in file if line.startswith("VmRSS:"))
  return int(line.split()[1]) / 1000


if __name__ == "__main__":
  main()
