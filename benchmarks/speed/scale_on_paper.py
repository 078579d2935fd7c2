"""Estimate an epoch on machines that were not measured: the tables of docs/scaling.md.

  python -m benchmarks.speed.scale_on_paper                        prints the tables
  python -m benchmarks.speed.scale_on_paper --write                writes them to docs/scaling.md
  python -m benchmarks.speed.scale_on_paper --utilisation=0.45     with another assumption

The time of a step over n devices, without any overlap, is the sum of

  compute    FLOPs per image × batch / n / (peak × utilisation)
  bytes      2 (n - 1) / n × bytes per step / bytes per second out of a device
  latency    all-reduces per step × latency of one

FLOPs are counted by flops.py, bytes by all_reduce.step_bytes, and all-reduces in the program
compiled for eight devices (benchmarks/results/speed/all_reduce.json). Peaks and bandwidths are
published. The utilisation and the latencies are assumptions. A measured utilisation is the TFLOP/s
that benchmarks.speed.utilisation prints, divided by the published peak.
"""

import argparse
import functools
import json
import math
from collections.abc import Iterable
from typing import NamedTuple

from benchmarks import records
from benchmarks.speed import all_reduce

DOCUMENT = records.ROOT / "docs" / "scaling.md"
BEGIN, END = "<!-- made by python -m benchmarks.speed.scale_on_paper -->", "<!-- end -->"
UTILISATION = 0.3
EPOCH = 50_000  # images
BATCHES = {"airbench94": 1024}  # the batches of the configs; 128 for the others
LARGE_BATCH = 1024  # the largest batch of a config here with a published recipe (airbench94)


class Machine(NamedTuple):
  """A machine with published figures, except `latency`; docs/scaling.md names the sources.

  Attributes:
    devices: number of devices in JAX.
    flops: dense bfloat16 FLOP/s of one device.
    out: bytes per second that one device sends in an all-reduce, over all links that it uses.
    latency: seconds of an all-reduce of a few bytes; an assumption.
  """

  name: str
  devices: int
  flops: float
  out: float
  latency: float


MACHINES = (
  # 2×4 chips with links of 50 GB/s each way. A ring through all chips uses two links per chip.
  # 1 µs per hop, four hops from corner to corner, there and back.
  Machine("v5e-8", 8, 197e12, 2 * 50e9, 2 * 4 * 1e-6),
  # A torus of 4×4×4 chips: six links of 100 GB/s each way. Six hops to the farthest chip, there and
  # back.
  Machine("v5p-128", 64, 459e12, 6 * 100e9, 2 * 6 * 1e-6),
  # NVLink with 900 GB/s, the sum of both directions.
  Machine("8 × H100", 8, 989e12, 450e9, 20e-6),
)


class Network(NamedTuple):
  """The work of a training step of a network, on any machine.

  Attributes:
    parameters: numbers of trainable parameters and of batch norm's moving statistics.
    flops: FLOPs to train on one image.
    all_reduces: all-reduces per step, by sync_bn.
  """

  name: str
  parameters: tuple[int, int]
  flops: int
  all_reduces: dict[bool, int]

  @property
  def batch(self) -> int:
    """The batch of the config."""
    return BATCHES.get(self.name, 128)

  def bytes(self, sync_bn: bool) -> int:
    """Return the bytes that a step reduces over the devices."""
    return all_reduce.step_bytes(*self.parameters, sync_bn)


@functools.cache
def networks() -> tuple[Network, ...]:
  """Return the networks of the record of all_reduce."""
  import jax
  import jax.numpy as jnp

  import models
  from benchmarks.speed import flops

  rows = json.loads((records.RESULTS / "all_reduce.json").read_text())["rows"]
  networks = []
  for name in all_reduce.NETWORKS:
    model = models.create({"name": name}, 10)
    variables = jax.eval_shape(
      lambda model=model: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    counts = {
      row["sync_bn"] == "True": row["all-reduces"]
      for row in rows
      if row["model"] == name and row["devices"] == 8
    }
    work = flops.of_training(flops.of_model(model, (1, 32, 32, 3)))
    networks.append(Network(name, models.count_parameters(variables), work, counts))
  return tuple(networks)


def compute_seconds(network: Network, machine: Machine, batch: int, utilisation: float) -> float:
  """Return the seconds that a step of `batch` images over all devices computes."""
  return network.flops * batch / machine.devices / (machine.flops * utilisation)


def transfer_seconds(size: int, machine: Machine) -> float:
  """Return the seconds of an all-reduce of `size` bytes over rings, without latency."""
  n = machine.devices
  return 2 * (n - 1) / n * size / machine.out


def reduce_seconds(network: Network, machine: Machine, sync_bn: bool) -> float:
  """Return the seconds of all all-reduces of a step."""
  latency = network.all_reduces[sync_bn] * machine.latency
  return transfer_seconds(network.bytes(sync_bn), machine) + latency


def break_even(network: Network, machine: Machine, sync_bn: bool, utilisation: float) -> float:
  """Return the images per device and step at which reducing takes as long as computing."""
  one = compute_seconds(network, machine, machine.devices, utilisation)
  return reduce_seconds(network, machine, sync_bn) / one


def tables(utilisation: float = UTILISATION) -> str:
  """Return the four tables in Markdown."""
  pairs = [(m, n) for m in MACHINES for n in networks()]
  return "\n\n".join(
    [
      _table(
        "network|parameters|training GFLOP per image|MB reduced per step|all-reduces: sync_bn|"
        "local",
        map(_network_row, networks()),
      ),
      _table(
        "machine|devices|peak TFLOP/s|GB/s out of a device|µs per all-reduce (assumed)",
        map(_machine_row, MACHINES),
      ),
      f"Milliseconds per step, and seconds per epoch of {EPOCH:,} images, at the batch of the "
      f"config and {utilisation:.0%} of the peak:",
      _table(
        "machine|network|batch|compute|bytes|latency: sync_bn|local|epoch: sync_bn|local",
        [_epoch_row(*pair, utilisation) for pair in pairs],
      ),
      "Images per device and step at which reducing takes as long as computing, and the number of "
      f"devices over which a batch of {LARGE_BATCH:,} gives each device that many:",
      _table(
        "machine|network|images: sync_bn|local|devices: sync_bn|local",
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
  """Return the text of docs/scaling.md with the current tables."""
  before, rest = document.split(BEGIN)
  _, after = rest.split(END)
  return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--utilisation", type=float, default=UTILISATION, help="in (0, 1]")
  parser.add_argument(
    "--write",
    action="store_true",
    help="write the tables to docs/scaling.md, with the utilisation assumed there",
  )
  options = parser.parse_args()
  if not 0 < options.utilisation <= 1:
    parser.error(f"--utilisation: {options.utilisation} must be in (0, 1]")
  if options.write:
    DOCUMENT.write_text(updated(DOCUMENT.read_text()))
  print(tables(options.utilisation))


if __name__ == "__main__":
  main()
