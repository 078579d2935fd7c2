"""(k) The same epoch in one process or several: losses, and the bytes that each process reads.

  python -m benchmarks.speed.processes

One process with one device, one with eight and two with four each (virtual CPU devices) take the
steps of one epoch of a small wide_resnet from the same config. 'largest difference' is that of any
step's loss from the first side's, relative to it. 'bytes' are of images and labels that a process
loads for these steps, the largest of a side's processes: all of them if they are resident, its own
rows if they are streamed. No time is measured.
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from benchmarks import records
from launch import local

SIDES = ((1, 1), (1, 8), (2, 4))  # processes, devices of each


def main() -> None:
  records.end_with_signals()
  parser = records.parser(__doc__, "processes")
  parser.add_argument("--batch", type=int, default=80)
  parser.add_argument("--examples", type=int, default=1600, help="training examples, of an epoch")
  options = records.parse(parser)
  if options.quick:
    options.examples = 2 * options.batch
  columns = ["source", "processes", "devices", "steps", "largest difference", "bytes"]
  record = records.Record("processes", options, columns)
  with records.images(options.data_dir, train=options.examples + 200, test=200) as folder:
    for source in ("resident", "streamed"):
      expected = None
      for distributed, devices in SIDES:
        found = one_side(source, distributed, devices, options, folder)
        losses = found[0]["losses"]
        expected = expected or losses
        differences = [abs(a - b) / b for a, b in zip(losses, expected, strict=True)]
        row = {
          "source": source,
          "processes": distributed,
          "devices": devices,
          "steps": len(losses),
          "largest difference": max(differences),
          "bytes": max(one["bytes"] for one in found),
        }
        record.add(row, losses=losses, bytes_of_each=[one["bytes"] for one in found])


def one_side(
  source: str, distributed: int, devices: int, options: argparse.Namespace, folder: str
) -> list[dict[str, Any]]:
  """What each process of a side has printed."""
  command = [sys.executable, "-m", "benchmarks.speed.processes", "--side", source]
  command += [f"--data_dir={folder}", f"--batch={options.batch}", f"--examples={options.examples}"]
  os.environ |= {"NPROC": "64"}  # see cifar_jax/runtime/startup.py
  running = local.start(command, distributed, devices)
  found = []
  for process in running:
    out, err = process.communicate(timeout=options.limit)
    if process.returncode:
      raise subprocess.CalledProcessError(process.returncode, command, out, err)
    found.append(json.loads(out.splitlines()[-1]))
  return found


def side() -> None:
  """One process: takes the steps and prints their losses and the bytes loaded, as JSON."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--side")
  parser.add_argument("--data_dir")
  parser.add_argument("--coordinator_address")
  for name in ("batch", "examples", "num_processes", "process_id"):
    parser.add_argument(f"--{name}", type=int)
  options = parser.parse_args()
  from cifar_jax.runtime import distributed, process_group

  group = process_group.resolve_process_group(
    options.coordinator_address, options.num_processes, options.process_id
  )
  if group is not None:
    distributed.join(group)
  import jax

  from cifar_jax.training import compiled_steps
  from configs import default
  from experiment import Experiment, resolve

  config = default.get_config()
  config.model.name, config.model.depth, config.model.width = "wide_resnet", 10, 1
  config.augment = "random_crop(padding=4) | random_flip()"
  config.optimizer.learning_rate = 0.01
  config.batch_size = options.batch
  config.data.dir = options.data_dir
  config.data.validation = 200
  config.data.train_examples = options.examples
  config.data.resident_bytes = 0 if options.side == "streamed" else config.data.resident_bytes
  experiment = Experiment(resolve(config))
  state = compiled_steps.replicate(experiment.init())
  compiled = experiment.compile_steps()
  steps = experiment.steps_per_epoch
  losses, loaded, resident = [], 0, 0
  for shard, resident_data in experiment.train_shards(0, [1] * steps):
    if shard.examples is not None:
      loaded += shard.examples.images.nbytes + shard.examples.labels.nbytes
    else:
      resident = resident_data.images.nbytes + resident_data.labels.nbytes
    state, loss = compiled.train(1, state, shard, resident_data)
    losses.append(float(jax.device_get(loss)))
  distributed.leave()
  print(json.dumps({"losses": losses, "bytes": loaded + resident}))


if __name__ == "__main__":
  sys.exit(side() if "--side" in sys.argv else main())
