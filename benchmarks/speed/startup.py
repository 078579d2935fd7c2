"""(c) From the command to the end of the first training step, cold and warm.

  python -m benchmarks.speed.startup --model=resnet18 --peer_python=.venv-peers/bin/python

Seconds between starting the process and the result of its first step, on augmented input: ours is
main.py with everything that a run does before (config, data read and checked, run folder);
peers import, make random images and take a step. 'begun' is when our first step, compiled, begins
to be computed, which takes as long warm as cold. Cold: the folders in which compiled programs are
kept (JAX's, which Keras on JAX is given too, and PyTorch's inductor and Triton) are new and empty.
Warm: the same command again. The files of the libraries are in the machine's cache both times,
after a first start that is not counted. Sides take turns, `--rounds` times; figures are medians.

With --prepare our cold start is that of a machine without the data: it also fetches and prepares
CIFAR-10.
"""

import sys
import tempfile
import time

from benchmarks import records, timing
from benchmarks.speed.ours import INPUTS
from benchmarks.speed.train_step import PEERS

STATES = {"cold": "cold s", "warm": "warm s"}
BEGUN = {"cold": "begun cold s", "warm": "begun warm s"}


def main() -> None:
  records.end_with_signals()
  parser = records.parser(__doc__, "startup")
  records.peer_option(parser)
  parser.add_argument("--model", default="resnet18")
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--peers", default=",".join(PEERS))
  parser.add_argument("--prepare", action="store_true")
  parser.set_defaults(rounds=3)
  options = records.parse(parser)
  if options.quick:
    options.batch, options.rounds = 8, 1
  record = records.Record(
    "startup", options, ["side", "model", "batch", *STATES.values(), *BEGUN.values(), "ours / it"]
  )
  names = ["ours", *filter(None, options.peers.split(","))]
  found = {name: {state: timing.Timing([]) for state in STATES} for name in names}
  begun = {state: timing.Timing([]) for state in STATES}
  problems: dict[str, str] = {}
  try:
    with records.images(options.data_dir) as data:
      for number in range(-1, options.rounds):
        for name in names:
          with tempfile.TemporaryDirectory(prefix="startup_") as folder:
            for state in STATES:
              if name in problems or (number < 0 and state == "warm"):
                continue
              try:
                seconds = first_step(name, options, data, folder)
              except timing.Failed as error:
                problems[name] = str(error)
                continue
              if number >= 0:
                found[name][state].seconds.append(seconds["first_step_at"])
                if "begun_at" in seconds:
                  begun[state].seconds.append(seconds["begun_at"])
  finally:
    for name in names:
      row = {"side": name, "model": options.model, "batch": options.batch}
      row |= {STATES[state]: timed.median for state, timed in found[name].items()}
      row["note"] = problems.get(name)
      more = {f"{state}_seconds": timed.seconds for state, timed in found[name].items()}
      if name == "ours":
        row |= {BEGUN[state]: timed.median for state, timed in begun.items()}
        more |= {f"{state}_begun_seconds": timed.seconds for state, timed in begun.items()}
      elif name not in problems and "ours" not in problems:
        row["ours / it"] = timing.ratio(found["ours"]["warm"], found[name]["warm"])
      record.add(row, **more)


def first_step(name: str, options, data: str, folder: str) -> dict[str, float]:
  """Seconds to what a side tells of its first step; `folder` keeps compiled programs.

  Raises:
    Failed: there was none.
  """
  caches = {
    "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
    "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
    "TRITON_CACHE_DIR": f"{folder}/triton",
  }
  gpu = records.on_gpu()
  dtype = options.dtype or ("bfloat16" if gpu else "float32")
  if name == "ours":
    with tempfile.TemporaryDirectory(prefix="run_") as workdir:
      data = f"{folder}/data" if options.prepare else data
      fields = {"model.name": options.model, "data.dir": data, "batch_size": options.batch}
      fields |= {"augment": INPUTS["augmented"], "dtype": dtype, "steps_per_dispatch": 1}
      command = [sys.executable, "-m", "benchmarks.speed.first_step", f"--workdir={workdir}/run"]
      command += ["--config=configs/default.py"]
      command += [f"--config.{field}={value}" for field, value in fields.items()]
      environment = records.side_environment(**caches)
      environment.pop("GLIBC_TUNABLES")  # which main.py has to set itself
      return _seconds(timing.Side("ours", command, environment), options.limit)
  arguments = [f"--batch={options.batch}", f"--dtype={dtype}", "--inputs=augmented", "--blocks=0"]
  side = timing.peer(name, options.model, options, *arguments, serve=False, **caches)
  return _seconds(side, options.limit)


def _seconds(side: timing.Side, limit: float) -> dict[str, float]:
  start = time.time()
  side.start()
  try:
    return {k: v - start for k, v in side.wait(limit).items() if k.endswith("_at")}
  finally:
    side.stop()


if __name__ == "__main__":
  sys.exit(main())
