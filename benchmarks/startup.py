"""(c) From the command to the end of the first training step, cold and warm.

  python -m benchmarks.startup --model=resnet18 --peer_python=.venv-peers/bin/python

Seconds between starting the process and the result of its first step, on augmented input: ours is
main.py with everything that a run does before (config, data read and checked, run folder);
peers import, make random images and take a step. Cold: the folders in which compiled programs are
kept (JAX's, which Keras on JAX is given too, and PyTorch's inductor and Triton) are new and empty.
Warm: the same command again. The files of the libraries are in the machine's cache both times,
after a first start that is not counted. Sides take turns, `--rounds` times; figures are medians.
"""

import sys
import tempfile
import time

from benchmarks import records, timing
from benchmarks.ours import INPUTS
from benchmarks.train_step import PEERS


def main() -> None:
  records.end_with_signals()
  parser = records.parser(__doc__, "startup")
  records.peer_option(parser)
  parser.add_argument("--model", default="resnet18")
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--peers", default=",".join(PEERS))
  parser.set_defaults(rounds=3)
  options = records.parse(parser)
  if options.quick:
    options.batch, options.rounds = 8, 1
  record = records.Record(
    "startup", options, ["side", "model", "batch", "cold s", "warm s", "ours / it"]
  )
  names = ["ours", *filter(None, options.peers.split(","))]
  found = {name: {"cold": timing.Timing([]), "warm": timing.Timing([])} for name in names}
  problems: dict[str, str] = {}
  try:
    with records.images(options.data_dir) as data:
      for number in range(-1, options.rounds):
        for name in names:
          with tempfile.TemporaryDirectory(prefix="startup_") as folder:
            for state in ("cold", "warm"):
              if name in problems or (number < 0 and state == "warm"):
                continue
              try:
                seconds = first_step(name, options, data, folder)
              except timing.Failed as error:
                problems[name] = str(error)
                continue
              if number >= 0:
                found[name][state].seconds.append(seconds)
  finally:
    for name in names:
      cold, warm = found[name]["cold"], found[name]["warm"]
      row = {"side": name, "model": options.model, "batch": options.batch}
      row |= {"cold s": cold.median, "warm s": warm.median, "note": problems.get(name)}
      if name != "ours" and name not in problems and "ours" not in problems:
        row["ours / it"] = timing.ratio(found["ours"]["warm"], warm)
      record.add(row, cold_seconds=cold.seconds, warm_seconds=warm.seconds)


def first_step(name: str, options, data: str, folder: str) -> float:
  """Seconds to the first step; `folder` keeps compiled programs.

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
      fields = {"model.name": options.model, "data.dir": data, "batch_size": options.batch}
      fields |= {"augment": INPUTS["augmented"], "dtype": dtype, "steps_per_dispatch": 1}
      command = [sys.executable, "-m", "benchmarks.first_step", f"--workdir={workdir}/run"]
      command += ["--config=configs/default.py"]
      command += [f"--config.{field}={value}" for field, value in fields.items()]
      environment = records.side_environment(**caches)
      environment.pop("GLIBC_TUNABLES")  # which main.py has to set itself
      return _seconds(timing.Side("ours", command, environment), options.limit)
  arguments = [f"--batch={options.batch}", f"--dtype={dtype}", "--inputs=augmented", "--blocks=0"]
  side = timing.peer(name, options.model, options, *arguments, serve=False, **caches)
  return _seconds(side, options.limit)


def _seconds(side: timing.Side, limit: float) -> float:
  start = time.time()
  side.start()
  try:
    return side.wait(limit)["first_step_at"] - start
  finally:
    side.stop()


if __name__ == "__main__":
  sys.exit(main())
