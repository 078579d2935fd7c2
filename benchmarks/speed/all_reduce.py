"""The bytes that a training step reduces over the devices, by the compiled program and a formula.

  python -m benchmarks.speed.all_reduce --devices=1,2,4,8

The program is the one that training compiles for a step of two examples per device, over virtual
CPU devices; it is not run. 'bytes' is the size of the results of its all-reduces, 'formula' is
`step_bytes`. The two differ where XLA removes duplicates: the norms of a residual block's last
convolution and of its shortcut have the same gradient of the bias, which is reduced once. On one
device the all-reduces exist, but move nothing. How many are combined into one depends on the
backend.
"""

import argparse
import json
import math
import re
import subprocess
import sys

import ml_collections

from benchmarks import records
from benchmarks.peers.common import MODELS

NETWORKS = MODELS
_BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "f16": 2, "bf16": 2, "s8": 1, "u8": 1, "pred": 1}
_FLOAT = 4
_SCALARS = 3  # loss, correct, top5
_COLLECTIVE = re.compile(
  r"= (?P<shapes>.+?) (?P<name>all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)"
  r"(?:-start)?\("
)


def step_bytes(trainable: int, statistics: int, sync_bn: bool) -> int:
  """Return the bytes that a step reduces over the devices, all of them float32.

  These are the gradients and three scalars of the batch. Batch norm adds: with `sync_bn` the mean
  and the mean square of each channel in the forward pass and their gradients in the backward pass,
  without it the moving statistics.

  Args:
    trainable, statistics: numbers of parameters and of moving statistics.
  """
  return _FLOAT * (trainable + (2 if sync_bn else 1) * statistics + _SCALARS)


def all_reduces(program: str) -> list[int]:
  """Return the bytes of the result of each all-reduce in the text of a compiled module.

  Raises:
    ValueError: the program has other collective operations.
  """
  sizes = []
  for match in _COLLECTIVE.finditer(program):
    if match["name"] != "all-reduce":
      raise ValueError(f"not an all-reduce: {match[0]}")
    shapes = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", match["shapes"])
    sizes.append(
      sum(_BYTES[kind] * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in shapes)
    )
  return sizes


def of_step(config: ml_collections.ConfigDict) -> tuple[tuple[int, int], list[int]]:
  """Return (trainable, statistics), and the `all_reduces` of the training step of `config`."""
  from experiment import Experiment, resolve

  experiment = Experiment(resolve(config))
  state = experiment.init()
  shards = experiment.train_shards(0, [1])
  compiled = experiment.compile_steps().lower_train(1, state, *next(iter(shards))).compile()
  return experiment.parameters, all_reduces(compiled.as_text() or "")


def main() -> None:
  parser = records.bare_parser(__doc__, "all_reduce")
  records.add_names_option(parser, "--models", NETWORKS)
  parser.add_argument("--devices", default="1,2,4,8", help="numbers of devices")
  parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)  # see `measure`
  options = records.parse(parser)
  if options.measure:
    measure(options.models, options.measure)
    return
  columns = ["model", "devices", "sync_bn", "all-reduces", "bytes", "formula", "ratio"]
  record = records.Record("all_reduce", options, columns)
  for num_devices in options.devices.split(","):
    command = [sys.executable, "-m", "benchmarks.speed.all_reduce", f"--measure={num_devices}"]
    command.append(f"--models={','.join(options.models)}")
    environment = records.side_environment(int(num_devices))
    with subprocess.Popen(
      command, cwd=records.ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
      for line in process.stdout or ():
        record.add(json.loads(line))
    if process.returncode:
      raise SystemExit(f"--devices: {num_devices} ended with exit code {process.returncode}")


def measure(models: list[str], num_devices: int) -> None:
  """Print a row of JSON for each model, with and without shared batch statistics.

  Each number of devices needs a process, because XLA fixes the number when it starts.
  """
  from benchmarks.speed import ours

  with records.images(None, train=4 * num_devices, test=num_devices) as folder:
    for model in models:
      for sync_bn in (True, False):
        config = ours.make_config(model, folder, 2 * num_devices, {"model.sync_bn": sync_bn})
        parameters, sizes = of_step(config)
        formula = step_bytes(*parameters, sync_bn)
        row = {
          "model": model,
          "devices": num_devices,
          "sync_bn": str(sync_bn),
          "all-reduces": len(sizes),
          "bytes": sum(sizes),
          "formula": formula,
          "ratio": f"{sum(sizes) / formula:.6f}",
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
  main()
