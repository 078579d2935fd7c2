"""(h) What a training step sums up over the devices: read from the compiled program, and counted.

  python -m benchmarks.speed.all_reduce --devices=1,2,4,8

The program is the one that training compiles for a step of two examples on each device, over
virtual devices of the CPU; nothing is run. 'bytes' are those of the results of its all-reduces,
'formula' is `step_bytes`. Where the two differ XLA saved something: the norms of a residual block's
last convolution and of its shortcut have the same gradient of the bias, and it is summed up once.
On one device the all-reduces are there, and move nothing. How many are put together into one
differs from backend to backend.
"""

import json
import math
import re
import subprocess
import sys
from typing import Any

from benchmarks import records
from benchmarks.peers.common import MODELS

NETWORKS = (*MODELS, "airbench94")
_BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "f16": 2, "bf16": 2, "s8": 1, "u8": 1, "pred": 1}
_FLOAT = 4
_SCALARS = 3  # loss, correct, examples
_COLLECTIVE = re.compile(
  r"= (?P<shapes>.+?) (?P<name>all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)"
  r"(?:-start)?\("
)


def step_bytes(trainable: int, statistics: int, sync_bn: bool) -> int:
  """Bytes that a step sums up over devices, all of them float32.

  Once each: gradients and three figures of the batch. Batch statistics: with `sync_bn` the mean and
  the mean square of each channel in the forward pass and their gradients in the backward pass,
  without it the moving statistics once.

  Args:
    trainable, statistics: numbers of parameters and of moving statistics.
  """
  return _FLOAT * (trainable + (2 if sync_bn else 1) * statistics + _SCALARS)


def all_reduces(program: str) -> list[int]:
  """Bytes of the result of each all-reduce in `program`, the text of a compiled module.

  Raises:
    ValueError: there are other collective operations in it.
  """
  found = []
  for match in _COLLECTIVE.finditer(program):
    if match["name"] != "all-reduce":
      raise ValueError(f"not an all-reduce: {match[0]}")
    shapes = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", match["shapes"])
    found.append(
      sum(_BYTES[kind] * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in shapes)
    )
  return found


def of_step(config: Any) -> tuple[tuple[int, int], list[int]]:
  """Parameters, as Experiment has them, and `all_reduces` of the step that `config` trains with."""
  from experiment import Experiment, resolve

  experiment = Experiment(resolve(config))
  state = experiment.init()
  shards = experiment.train_shards(0, [1])
  lowered = experiment.compile_steps().lower_train(1, state, *next(iter(shards)))
  compiled = lowered.compile()
  return experiment.parameters, all_reduces(compiled.as_text())


def main() -> None:
  records.end_with_signals()
  parser = records.bare_parser(__doc__, "all_reduce")
  parser.add_argument("--models", default=",".join(NETWORKS))
  parser.add_argument("--devices", default="1,2,4,8")
  parser.add_argument("--measure", type=int, help="print rows for so many devices, and no more")
  options = parser.parse_args()
  if options.measure:
    measure(options.models.split(","), options.measure)
    return
  columns = ["model", "devices", "sync_bn", "all-reduces", "bytes", "formula", "ratio"]
  record = records.Record("all_reduce", options, columns)
  for devices in options.devices.split(","):
    command = [sys.executable, "-m", "benchmarks.speed.all_reduce", f"--measure={devices}"]
    command.append(f"--models={options.models}")
    environment = records.side_environment(int(devices))
    with subprocess.Popen(
      command, cwd=records.ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
      for line in process.stdout:
        record.add(json.loads(line))
    if process.returncode:
      raise SystemExit(f"{devices} devices: ended with code {process.returncode}")


def measure(models: list[str], devices: int) -> None:
  """Prints a row of JSON for each model, with and without shared batch statistics."""
  from benchmarks.speed import ours

  with records.images(None, train=4 * devices, test=devices) as folder:
    for model in models:
      for sync_bn in (True, False):
        config = ours.make_config(model, folder, 2 * devices, {"model.sync_bn": sync_bn})
        parameters, found = of_step(config)
        formula = step_bytes(*parameters, sync_bn)
        row = {"model": model, "devices": devices, "sync_bn": str(sync_bn)}
        row |= {"all-reduces": len(found), "bytes": sum(found), "formula": formula}
        row["ratio"] = f"{sum(found) / formula:.6f}"
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
  sys.exit(main())
