"""What an epoch costs on machines that we have not measured: the tables of docs/scaling.md.

  python -m benchmarks.speed.scale_on_paper                        prints them
  python -m benchmarks.speed.scale_on_paper --write                puts them into docs/scaling.md
  python -m benchmarks.speed.scale_on_paper --utilisation=0.45     with another assumption

A step over n devices, nothing overlapped, is

  compute    FLOPs of an image × batch / n / (peak × utilisation)
  bytes      2 (n - 1) / n × bytes of a step / bytes a second out of a device
  latency    all-reduces of a step × latency of one

FLOPs are counted by flops.py, bytes by all_reduce.step_bytes, all-reduces in the program
compiled for eight devices (benchmarks/results/speed/all_reduce.json). Peaks and bandwidths are
published ones. The utilisation and the latencies are assumptions. A measured utilisation is the
TFLOP/s that benchmarks.speed.utilisation prints, divided by the published peak.
"""

import argparse
import functools
import json
import math
import pathlib
import sys
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks import records
from benchmarks.speed import all_reduce

DOCUMENT = records.ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- made by python -m benchmarks.speed.scale_on_paper -->", "<!-- end -->"
UTILISATION = 0.3
EPOCH = 50_000  # images
BATCHES = {"airbench94": 1024}  # as the configs have them; all others 128
LARGE_BATCH = 1024  # the largest that a config here has a published recipe for, airbench94's


class Machine(NamedTuple):
  """Published figures, but for `latency`; docs/scaling.md names the sources.

  Attributes:
    devices: as JAX counts them.
    flops: of one device in bfloat16, dense, a second.
    out: bytes a second that one device sends in an all-reduce, over all links that it uses.
    latency: seconds of an all-reduce of next to nothing. An assumption.
  """

  name: str
  devices: int
  flops: float
  out: float
  latency: float


MACHINES = (
  # 2×4 chips with 50 GB/s a link each way, in a ring through all: two links. 1 µs a hop, four hops
  # from corner to corner, twice.
  Machine("v5e-8", 8, 197e12, 2 * 50e9, 2 * 4 * 1e-6),
  # 4×4×4 chips, a torus: six links of 100 GB/s each way. Six hops to the farthest, twice.
  Machine("v5p-128", 64, 459e12, 6 * 100e9, 2 * 6 * 1e-6),
  # 900 GB/s of NVLink in both directions together.
  Machine("8 × H100", 8, 989e12, 450e9, 20e-6),
)


class Network(NamedTuple):
  """What a step of a network costs, whatever the machine.

  Attributes:
    parameters: trainable ones, and moving statistics of batch norm.
    flops: of training on one image.
    all_reduces: in a step, by sync_bn.
  """

  name: str
  parameters: tuple[int, int]
  flops: int
  all_reduces: dict[bool, int]

  @property
  def batch(self) -> int:
    return BATCHES.get(self.name, 128)

  def bytes(self, sync_bn: bool) -> int:
    return all_reduce.step_bytes(*self.parameters, sync_bn)


@functools.cache
def networks() -> tuple[Network, ...]:
  import jax
  import jax.numpy as jnp

  import models
  from benchmarks.speed import flops

  rows = json.loads((records.RESULTS / "all_reduce.json").read_text())["rows"]
  found = []
  for name in all_reduce.NETWORKS:
    model = models.create({"name": name}, 10)
    variables = jax.eval_shape(
      lambda model=model: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    counted = {
      row["sync_bn"] == "True": row["all-reduces"]
      for row in rows
      if row["model"] == name and row["devices"] == 8
    }
    work = flops.of_training(flops.of_model(model, (1, 32, 32, 3)))
    found.append(Network(name, models.count_parameters(variables), work, counted))
  return tuple(found)


def compute_seconds(network: Network, machine: Machine, batch: int, utilisation: float) -> float:
  """Of a step of `batch` images over all devices."""
  return network.flops * batch / machine.devices / (machine.flops * utilisation)


def transfer_seconds(size: int, machine: Machine) -> float:
  """Of all-reducing `size` bytes, without latency: a ring's, or a torus' rings'."""
  n = machine.devices
  return 2 * (n - 1) / n * size / machine.out


def reduce_seconds(network: Network, machine: Machine, sync_bn: bool) -> float:
  """Of all that a step reduces."""
  latency = network.all_reduces[sync_bn] * machine.latency
  return transfer_seconds(network.bytes(sync_bn), machine) + latency


def break_even(network: Network, machine: Machine, sync_bn: bool, utilisation: float) -> float:
  """Images a device and step at which reducing takes as long as computing."""
  one = compute_seconds(network, machine, machine.devices, utilisation)
  return reduce_seconds(network, machine, sync_bn) / one


def tables(utilisation: float = UTILISATION) -> str:
  """The four tables in Markdown."""
  pairs = [(m, n) for m in MACHINES for n in networks()]
  return "\n\n".join(
    [
      _table(
        "network|parameters|training GFLOP an image|MB reduced a step|in all-reduces: sync_bn|own "
        "statistics",
        map(_network_row, networks()),
      ),
      _table(
        "machine|devices|peak TFLOP/s|GB/s out of a device|µs an all-reduce (assumed)",
        map(_machine_row, MACHINES),
      ),
      f"A step in milliseconds and an epoch of {EPOCH:,} images in seconds, at the batch of the "
      f"config and {utilisation:.0%} of the peak:",
      _table(
        "machine|network|batch|compute|bytes|latency: sync_bn|own|epoch: sync_bn|own",
        [_epoch_row(*pair, utilisation) for pair in pairs],
      ),
      "Images a device and step at which reducing takes as long as computing, and the devices over "
      f"which a batch of {LARGE_BATCH:,} gives each so many:",
      _table(
        "machine|network|images: sync_bn|own|devices: sync_bn|own",
        [_limit_row(*pair, utilisation) for pair in pairs],
      ),
    ]
  )


def _network_row(network: Network) -> list[str]:
  return [
    network.name,
    f"{sum(network.parameters):,}",
    f"{network.flops / 1e9:.3g}",
    f"{network.bytes(True) / 1e6:.3g}",
    str(network.all_reduces[True]),
    str(network.all_reduces[False]),
  ]


def _machine_row(machine: Machine) -> list[str]:
  return [
    machine.name,
    str(machine.devices),
    f"{machine.flops / 1e12:.0f}",
    f"{machine.out / 1e9:.0f}",
    f"{machine.latency * 1e6:.0f}",
  ]


def _epoch_row(machine: Machine, network: Network, utilisation: float) -> list[str]:
  compute = compute_seconds(network, machine, network.batch, utilisation)
  moved = transfer_seconds(network.bytes(True), machine)
  latency = [network.all_reduces[sync_bn] * machine.latency for sync_bn in (True, False)]
  steps = EPOCH // network.batch
  epochs = [steps * (compute + reduce_seconds(network, machine, s)) for s in (True, False)]
  return [
    machine.name,
    network.name,
    f"{network.batch:,}",
    *(f"{1e3 * seconds:.2g}" for seconds in (compute, moved, *latency)),
    *(f"{seconds:.2g}" for seconds in epochs),
  ]


def _limit_row(machine: Machine, network: Network, utilisation: float) -> list[str]:
  images = [break_even(network, machine, s, utilisation) for s in (True, False)]
  devices = [max(1, math.floor(LARGE_BATCH / i)) for i in images]
  return [machine.name, network.name, *(f"{i:.0f}" for i in images), *map(str, devices)]


def _table(header: str, rows: Iterable[list[str]]) -> str:
  names = header.split("|")
  lines = [names, ["---"] * 2 + ["---:"] * (len(names) - 2), *rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def updated(document: str) -> str:
  """docs/scaling.md with the tables as they are now."""
  before, rest = document.split(BEGIN)
  _, after = rest.split(END)
  return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--utilisation", type=float, default=UTILISATION, help="in (0, 1]")
  parser.add_argument("--write", action="store_true", help="into docs/scaling.md, as assumed there")
  options = parser.parse_args()
  if not 0 < options.utilisation <= 1:
    parser.error(f"--utilisation: {options.utilisation} must be in (0, 1]")
  if options.write:
    pathlib.Path(DOCUMENT).write_text(updated(DOCUMENT.read_text()))
  print(tables(options.utilisation))


if __name__ == "__main__":
  sys.exit(main())
