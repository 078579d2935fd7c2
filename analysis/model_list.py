"""Every network with its size, its cost and our recorded accuracy: `--mode=models`."""

import json
import math
import pathlib
from collections.abc import Mapping, Sequence

import models
from analysis import summary
from cifar_jax.runtime.text_table import format_table
from cifar_jax.types import Row
from models import creation

RECORDS = pathlib.Path(__file__).parents[1] / "benchmarks" / "results"
_FORM = ((32, 32, 3), 10)  # of CIFAR-10: the shape of an image, and the number of classes
_HEADER = ("model", "parameters", "FLOPs per image", "CIFAR-10 test accuracy", "record")


def collect(patterns: Sequence[str]) -> list[Row]:
  """Return a row for each network whose name matches a pattern; all networks without patterns.

  Each row has 'name'; 'parameters', the number of trainable parameters with default arguments for
  CIFAR-10; 'flops' of the forward pass of one image, two for each multiply-add of convolutions and
  dense layers, counted from shapes; 'accuracy', the best recorded test accuracy on CIFAR-10 without
  test-time augmentation, and 'record', the folder of that record; both are None without a record.

  Raises:
    UserError: a pattern matches no network.
  """
  records = _read_records()
  return [_describe(name, records) for name in creation.search(*patterns)]


def _describe(name: str, records: Mapping[tuple[str, int], Row]) -> Row:
  image_shape, num_classes = _FORM
  variables, calls = summary.trace(models.create({"name": name}, num_classes), list(image_shape))
  trainable, _ = models.count_parameters(variables)
  flops = 0
  for call in calls:
    leaves = variables["params"]
    for part in call.path:
      leaves = leaves.get(part, {})
    if "kernel" in leaves and not isinstance(leaves["kernel"], dict):
      kernel = leaves["kernel"].shape  # the last axis is the output's channels
      flops += 2 * math.prod(kernel) * math.prod(call.shape) // kernel[-1]
  none = {"accuracy": None, "record": None}
  row = {"name": name, "parameters": trainable, "flops": flops}
  return row | records.get((name, trainable), none)


def _read_records() -> dict[tuple[str, int], Row]:
  """Return the best record on CIFAR-10 of each network, by its name and size.

  The size distinguishes networks that have the same name but different arguments.
  """
  best: dict[tuple[str, int], Row] = {}
  for file in sorted(RECORDS.glob("*/results.json")):
    results = json.loads(file.read_text())
    accuracy = results.get("test_accuracy")
    if accuracy is None or results["data"]["name"] != "cifar10":
      continue
    row = {"accuracy": accuracy, "record": file.parent.name}
    key = results["model"], results["parameters"]["trainable"]
    best[key] = max(best.get(key, row), row, key=lambda row: row["accuracy"])
  return best


def describe(patterns: Sequence[str], as_json: bool = False) -> str:
  """Return the rows of `collect` as a table, or as JSON."""
  rows = collect(patterns)
  if as_json:
    return json.dumps(rows, indent=2)
  lines = [
    (
      row["name"],
      f"{row['parameters']:,}",
      f"{row['flops'] / 1e6:,.1f} M",
      "" if row["accuracy"] is None else f"{row['accuracy']:.2%}",
      row["record"] or "",
    )
    for row in rows
  ]
  return format_table(_HEADER, lines, right={1, 2, 3})
