"""From the command to the end of the first training step, cold and warm.

  python -m benchmarks.speed.startup --model=resnet18 --peer_python=.venv-peers/bin/python

The time is from the start of the process to the result of its first step, on augmented input. Ours
is main.py with everything that a run does before its first step (read the config, read and check
the data, create the run folder); peers import, make random images and take a step. 'begun' is the
time until our compiled step begins; the step itself takes as long warm as cold. Cold: the folders
for compiled programs (JAX's, which Keras on JAX uses too, and PyTorch's inductor and Triton) are
new and empty. Warm: the same command again. Both times the libraries' files are in the operating
system's cache, after a first start that does not count. Sides take turns, `--rounds` times; the
numbers are medians.

With --prepare our cold start is that of a machine without the data: it also fetches and prepares
CIFAR-10.
"""

import argparse
import sys
import tempfile
import time

from benchmarks import records, timing
from benchmarks.speed.ours import INPUTS
from benchmarks.speed.train_step import PEERS
from cifar_jax.types import Row

STATES = ("cold", "warm")


def main() -> None:
  parser = records.parser(__doc__, "startup")
  records.add_peer_option(parser)
  parser.add_argument("--model", default="resnet18")
  parser.add_argument("--batch", type=int, default=128)
  records.add_names_option(parser, "--peers", PEERS)
  parser.add_argument("--prepare", action="store_true", help="fetch and prepare CIFAR-10 too")
  parser.set_defaults(rounds=3)
  options = records.parse(parser)
  if options.quick:
    options.batch, options.rounds = 8, 1
  columns = ["side", "model", "batch", *(f"{state} s" for state in STATES)]
  columns += [f"begun {state} s" for state in STATES]
  record = records.Record("startup", options, [*columns, "ours / it"])
  starts = Starts(["ours", *options.peers])
  try:
    with records.images(options.data_dir) as data:
      for round_index in range(-1, options.rounds):
        for name in starts.names:
          starts.measure(name, options, data, counts=round_index >= 0)
  finally:
    for name in starts.names:
      row, details = starts.row(name)
      record.add({"side": name, "model": options.model, "batch": options.batch} | row, **details)


class Starts:
  """The measured starts of all sides.

  Args:
    names: 'ours', and the names of the peers.
  """

  def __init__(self, names: list[str]):
    self.names = names
    self._seconds = {name: {state: timing.Timing([]) for state in STATES} for name in names}
    self._begun = {state: timing.Timing([]) for state in STATES}
    self._problems: dict[str, str] = {}

  def measure(self, name: str, options: argparse.Namespace, data: str, counts: bool) -> None:
    """Start a side cold and then warm, unless it failed before.

    Args:
      data: the data directory.
      counts: False for the first start, which is cold only.
    """
    with tempfile.TemporaryDirectory(prefix="startup_") as folder:
      for state in STATES if counts else STATES[:1]:
        if name in self._problems:
          return
        try:
          seconds = first_step(name, options, data, folder)
        except timing.Failed as error:
          self._problems[name] = str(error)
          return
        if counts:
          self._seconds[name][state].seconds.append(seconds["first_step_at"])
          if "begun_at" in seconds:
            self._begun[state].seconds.append(seconds["begun_at"])

  def row(self, name: str) -> tuple[Row, Row]:
    """Return the medians of a side, and the seconds of each round."""
    timings = self._seconds[name]
    row: Row = {f"{state} s": timed.median for state, timed in timings.items()}
    row["note"] = self._problems.get(name)
    details: Row = {f"{state}_seconds": timed.seconds for state, timed in timings.items()}
    if name == "ours":
      row |= {f"begun {state} s": timed.median for state, timed in self._begun.items()}
      details |= {f"{state}_begun_seconds": timed.seconds for state, timed in self._begun.items()}
    elif name not in self._problems and "ours" not in self._problems:
      row["ours / it"] = timing.ratio(self._seconds["ours"]["warm"], timings["warm"])
    return row, details


def first_step(name: str, options: argparse.Namespace, data: str, folder: str) -> dict[str, float]:
  """Start a side; return the seconds until each time that it prints, such as 'first_step_at'.

  Args:
    data: the data directory.
    folder: where compiled programs are kept, and with --prepare the data.

  Raises:
    Failed: the side took no step.
  """
  caches = {
    "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
    "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
    "TRITON_CACHE_DIR": f"{folder}/triton",
  }
  dtype = records.choose_dtype(options)
  if name != "ours":
    arguments = [f"--batch={options.batch}", f"--dtype={dtype}", "--inputs=augmented", "--blocks=0"]
    peer = timing.peer(name, options.model, options, *arguments, serve=False, variables=caches)
    return _seconds(peer, options.limit)
  with tempfile.TemporaryDirectory(prefix="run_") as workdir:
    fields = {
      "model.name": options.model,
      "data.dir": f"{folder}/data" if options.prepare else data,
      "batch_size": options.batch,
      "augment": INPUTS["augmented"],
      "dtype": dtype,
      "steps_per_dispatch": 1,
    }
    command = [sys.executable, "-m", "benchmarks.speed.first_step", f"--workdir={workdir}/run"]
    command += ["--config=configs/default.py"]
    command += [f"--config.{field}={value}" for field, value in fields.items()]
    environment = records.side_environment(variables=caches)
    environment.pop("GLIBC_TUNABLES", None)  # main.py must set it itself
    return _seconds(timing.Side("ours", command, environment), options.limit)


def _seconds(side: timing.Side, limit: float) -> dict[str, float]:
  start = time.time()
  side.start()
  try:
    return {k: v - start for k, v in side.wait(limit).items() if k.endswith("_at")}
  finally:
    side.stop()


if __name__ == "__main__":
  main()
