"""The same epoch in one process and in several: the losses, and the bytes that each process reads.

  python -m benchmarks.speed.processes

One process with one device, one with eight and two with four each (virtual CPU devices) take the
steps of one epoch of a small wide_resnet from the same config. 'largest difference' is the largest
relative difference of any step's loss from the first side's. 'bytes' are the bytes of images and
labels that a process loads for these steps, the maximum over a side's processes: the complete
dataset if it is resident, the process's rows if it is streamed. No time is measured.
"""

import argparse
import json
import os
import subprocess
import sys

import ml_collections

from benchmarks import records
from cifar_jax.types import Row
from launch import local

SIDES = ((1, 1), (1, 8), (2, 4))  # processes, devices of each
SOURCES = ("resident", "streamed")
_VALIDATION_EXAMPLES = 200


def main() -> None:
  parser = records.parser(__doc__, "processes")
  parser.add_argument("--batch", type=int, default=80)
  parser.add_argument("--examples", type=int, default=1600, help="training examples in an epoch")
  options = records.parse(parser)
  if options.quick:
    options.examples = 2 * options.batch
  columns = ["source", "processes", "devices", "steps", "largest difference", "bytes"]
  record = records.Record("processes", options, columns)
  train_examples = options.examples + _VALIDATION_EXAMPLES
  with records.images(options.data_dir, train=train_examples, test=200) as folder:
    for source in SOURCES:
      expected = None
      for num_processes, devices in SIDES:
        outputs = run_side(source, num_processes, devices, options, folder)
        losses = outputs[0]["losses"]
        expected = expected or losses
        differences = [abs(a - b) / b for a, b in zip(losses, expected, strict=True)]
        byte_counts = [output["bytes"] for output in outputs]
        row = {
          "source": source,
          "processes": num_processes,
          "devices": devices,
          "steps": len(losses),
          "largest difference": max(differences),
          "bytes": max(byte_counts),
        }
        record.add(row, losses=losses, bytes_of_each=byte_counts)


def run_side(
  source: str, num_processes: int, devices: int, options: argparse.Namespace, folder: str
) -> list[Row]:
  """Run the processes of a side; return what each prints.

  Args:
    source: one of SOURCES.
    devices: number of virtual CPU devices of each process.
    folder: the data directory.

  Raises:
    CalledProcessError: a process failed.
  """
  command = [sys.executable, "-m", "benchmarks.speed.processes", "--side", source]
  command += [f"--data_dir={folder}", f"--batch={options.batch}", f"--examples={options.examples}"]
  os.environ["NPROC"] = "64"  # see cifar_jax/runtime/startup.py
  outputs = []
  for process in local.start(command, num_processes, devices):
    out, err = process.communicate(timeout=options.limit)
    if process.returncode:
      raise subprocess.CalledProcessError(process.returncode, command, out, err)
    outputs.append(json.loads(out.splitlines()[-1]))
  return outputs


def take_steps() -> None:
  """Take the steps in this process of a side; print their losses and the bytes loaded, as JSON."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--side", choices=SOURCES)
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
  from experiment import Experiment, resolve

  experiment = Experiment(resolve(_make_config(options)))
  state = compiled_steps.replicate(experiment.init())
  compiled = experiment.compile_steps()
  losses, streamed_bytes, resident_bytes = [], 0, 0
  for shard, resident in experiment.train_shards(0, [1] * experiment.steps_per_epoch):
    if shard.examples is not None:
      streamed_bytes += shard.examples.images.nbytes + shard.examples.labels.nbytes
    elif resident.images is not None and resident.labels is not None:
      resident_bytes = resident.images.nbytes + resident.labels.nbytes
    state, loss = compiled.train(1, state, shard, resident)
    losses.append(float(jax.device_get(loss)))
  distributed.leave()
  print(json.dumps({"losses": losses, "bytes": streamed_bytes + resident_bytes}))


def _make_config(options: argparse.Namespace) -> ml_collections.ConfigDict:
  from configs import default

  config = default.get_config()
  config.model.name, config.model.depth, config.model.width = "wide_resnet", 10, 1
  config.augment = "random_crop(padding=4) | random_flip()"
  config.optimizer.learning_rate = 0.01
  config.batch_size = options.batch
  config.data.dir = options.data_dir
  config.data.validation = _VALIDATION_EXAMPLES
  config.data.train_examples = options.examples
  if options.side == "streamed":
    config.data.resident_bytes = 0
  return config


if __name__ == "__main__":
  if "--side" in sys.argv:
    take_steps()
  else:
    main()
