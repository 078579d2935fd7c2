"""Evaluate the selected weights of a run on another test set: `--mode=evaluate --test_set=…`.

The mode writes `<run>/evaluation/test_set_<name>.json`. test_sets.py lists the kinds of test sets.
"""

import datetime
import json
import os
import re
from collections.abc import Sequence

import numpy as np

from analysis.evaluate import corruptions, measures, test_sets
from analysis.files import explain_failure, write_atomically
from analysis.run import Run, call_size, load_run
from cifar_jax.augment import test_time
from cifar_jax.runs import results, run_folder, test_uses
from cifar_jax.runtime.console import progress
from cifar_jax.runtime.text_table import format_table
from cifar_jax.types import Row


def evaluate_test_set(
  workdir: str | os.PathLike, description: str, seed: int | None = None, tta: str = ""
) -> Row:
  """Measure the selected weights on another test set.

  Args:
    workdir: the run folder.
    description: a test set, as `test_sets.open_test_set` takes it.
    seed: the seed whose weights to use, for runs with several seeds; None for the first.
    tta: test-time augmentation, one of test_time.KINDS; "" for none.

  Returns:
    The content of the written file, and 'text', what to print.

  Raises:
    UserError: the folder holds no trained run, the test set does not fit, or the file cannot be
      written.
  """
  test_time.check_kind(tta)
  run = load_run(workdir, seed)
  test_set = test_sets.open_test_set(run, description)
  name = re.sub(r"[^\w.-]+", "_", test_set.name)
  purpose = f"test set {test_set.name} (seed {run.seed}, step {run.step}{', ' * bool(tta)}{tta})"
  test_uses.record(run.path, "evaluate", purpose, test_set.counts_as)
  content: Row = {
    "test_set": test_set.name,
    "run": run.name,
    "model": run.config.model.name,
    "seed": run.seed,
    "step": run.step,
    "selected_on": results.selected_on(run.config),
    "tta": tta,
    "counts_as": test_set.counts_as,
    "test_uses": test_uses.count(run.path, test_set.counts_as),
    "parts": _measure_parts(run, test_set, tta),
    "evaluated": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
  }
  content |= _average(content["parts"])
  path = run.path / "evaluation" / f"test_set_{name}.json"
  with explain_failure(f"{path}:", "fix this, then evaluate again"):
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, (json.dumps(run_folder.finite(content), indent=2) + "\n").encode())
  return content | {"text": f"{format_content(content)}\nwrote {path}"}


def _measure_parts(run: Run, test_set: test_sets.TestSet, tta: str) -> list[Row]:
  """Return the measures of each part, with its expected calibration error."""
  rows = []
  with progress(f"evaluate {test_set.name}", test_set.num_parts, "parts") as advance:
    for part in test_set.parts():
      logits = np.concatenate(
        [
          run.logits(np.asarray(part.images[start : start + call_size()]), tta)
          for start in range(0, len(part.labels), call_size())
        ]
      )
      probabilities = measures.Predictions(part.images, part.labels, logits).probabilities()
      calibration = measures.measure_calibration(probabilities, part.labels)
      row: Row = {"corruption": part.corruption, "severity": part.severity}
      row |= {"examples": len(part.labels)} | measures.measure(logits, part.labels)
      rows.append(row | {"ece": calibration["ece"]})
      advance(1)
  return rows


def _average(parts: Sequence[Row]) -> Row:
  """Return the accuracy over all images; for corruptions the mean error over corruptions.

  The mean corruption error is the mean over severities and over those of the benchmark's 15
  corruptions that were measured. As is the custom for CIFAR, it is not divided by the errors of a
  reference network.
  """
  corrupted = [part for part in parts if part["severity"] is not None]
  if not corrupted:
    (part,) = parts
    return {"accuracy": part["accuracy"]}
  counted = [part for part in corrupted if part["corruption"] not in corruptions.EXTRA]
  names = list(dict.fromkeys(part["corruption"] for part in counted))
  if not counted:
    return {"mean_corruption_error": None, "counted_corruptions": []}
  error = 1 - float(np.mean([part["accuracy"] for part in counted]))
  return {"mean_corruption_error": error, "counted_corruptions": names}


def format_content(content: Row) -> str:
  """Return the content of the file as text."""
  uses = test_uses.describe(content["test_uses"], "").strip()
  tta = f", test-time augmentation {content['tta']}" if content["tta"] else ""
  lines = [
    f"{content['run']}: {content['model']} on {content['test_set']}, weights of step "
    f"{content['step']} (seed {content['seed']}), selected on {content['selected_on']}{tta}",
    "",
  ]
  parts = content["parts"]
  if "accuracy" in content:
    (part,) = parts
    lines.append(
      f"accuracy {part['accuracy']:.2%}, loss {part['loss']:.4f}, top-5 {part['top5']:.2%}, "
      f"expected calibration error {part['ece']:.2%} ({part['examples']:,} images, {uses})"
    )
    return "\n".join(lines)
  lines.append(_format_corruptions(parts))
  if (error := content["mean_corruption_error"]) is not None:
    names = content["counted_corruptions"]
    lines.append(
      f"mean corruption error {error:.2%}, over {len(names)} of the benchmark's 15 corruptions and "
      "5 severities"
    )
  if any(part["corruption"] in corruptions.EXTRA for part in parts):
    lines.append("*: not among the benchmark's 15, and not in its mean")
  lines.append(f"test images {uses}: corrupted test images count as test images")
  return "\n".join(lines)


def _format_corruptions(parts: Sequence[Row]) -> str:
  """Return a table of accuracies: a row for each corruption, a column for each severity."""
  by_name: dict[str, list[Row]] = {}
  for part in parts:
    by_name.setdefault(part["corruption"], []).append(part)
  rows = []
  for name, members in by_name.items():
    accuracies = [part["accuracy"] for part in members]
    mark = "*" if name in corruptions.EXTRA else ""
    cells = [f"{accuracy:.1%}" for accuracy in accuracies]
    if members[0]["severity"] is None:
      cells = [""] * len(corruptions.SEVERITIES)
    mean, ece = (float(np.mean([part[key] for part in members])) for key in ("accuracy", "ece"))
    rows.append([name + mark, *cells, f"{mean:.2%}", f"{ece:.2%}"])
  header = ["accuracy, by severity", *map(str, corruptions.SEVERITIES), "mean", "calibration error"]
  return format_table(header, rows, right=range(1, len(header)))
