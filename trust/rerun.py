"""--mode=rerun: repeat a recorded run, and report whether it gives the same result.

The record is a run folder, or the results.json of one, such as those in benchmarks/results/. Its
config, data and seeds are used again, in a new run folder. The verdict is one of

  same bits                       every metric that both runs have is equal to the last bit
  within the noise of seeds       the difference is no larger than between seeds
  differs                         it is larger: p is less than `_LEVEL`

The report also names the versions, the hardware and the commit that changed. The repetition
computes in the dtype of the record.

p is the probability that two runs of one config, with different seeds, differ by at least as much:

  - For a record of several seeds: Welch's t-test of its seeds and those of the repetition.
  - For a complete repetition of one seed: both test accuracies are treated as samples of n test
    images, each with the binomial variance a (1 - a) / n. This variance stands in for the spread of
    seeds, which one seed does not show; how close the two are was not measured.
  - For a repetition of the first epochs, of one seed: `other_seeds` further seeds are trained for
    the same epochs. The recorded training loss is compared with the losses of all of them by
    Student's prediction interval of one further value.

Complete repetitions are judged by the test accuracy, or by the validation accuracy if the record
has no test accuracy; others by the training loss of the last repeated epoch.
"""

import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from analysis import run_record
from analysis.run_record import RunRecord
from cifar_jax import errors
from cifar_jax.config import check_config, from_json
from cifar_jax.runs import run_folder
from cifar_jax.runtime.console import log
from cifar_jax.runtime.text_table import format_table
from cifar_jax.types import Row
from configs import default
from trust import differences, processes
from trust.differences import ComparedRun
from trust.processes import Job

_LEVEL = 0.01
_SHOWN = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
_RESULTS = ("test_loss", "test_accuracy", "val_accuracy")


class Judgement(NamedTuple):
  """The outcome of a repetition.

  Attributes:
    verdict: 'same bits', 'within the noise of seeds' or 'differs'.
    reason: how the probability was computed, '' for the same bits.
    probability: see the module's docstring; None for the same bits.
  """

  verdict: str
  reason: str
  probability: float | None


def rerun(
  path: str,
  workdir: pathlib.Path,
  epochs: int | None = None,
  other_seeds: int = 7,
  train: Callable[[Job, int], None] = processes.stop_after_epochs,
) -> tuple[str, int]:
  """Repeat a record in `workdir`; return the text to print, and 1 if it differs, else 0.

  Args:
    path: a results.json, or the folder that holds it.
    workdir: the repetition's run folder, unfinished or new; other seeds get folders next to it.
    epochs: how many of the record's epochs to repeat; None for all.
    other_seeds: how many further seeds to train, if they are needed.
    train: trains a job until it has this number of epochs.

  Raises:
    UserError: the record cannot be read or its config is of another version, the data are not
      available or have changed, or a training failed.
  """
  record = _read_record(path)
  if workdir.resolve() == pathlib.Path(record.path).resolve():
    raise errors.UserError(f"workdir: {workdir} holds the record; pass another folder")
  with run_folder.reading(record.path):
    config = restore_config(record.config)
  num_epochs = min(epochs or len(record.rows), len(record.rows))
  _raise_if_other_data(record, config)
  job = Job(config, workdir)
  log.info("repeating %s for %d of its %d epochs", record.path, num_epochs, len(record.rows))
  environment = processes.describe_environment(config.dtype)
  is_complete = bool(record.results) and num_epochs == len(record.rows)
  # A run that is trained to its end also tests its weights.
  train(job, config.num_epochs if is_complete else num_epochs)
  repeated = run_record.read_record(workdir)
  with run_folder.reading(record.path):
    rows = _common(record, repeated, num_epochs)
    judgement = _judge(record, repeated, rows, is_complete and bool(repeated.results))
    if judgement is None:
      repetitions = [repeated, *_train_others(job, num_epochs, other_seeds, train)]
      judgement = _judge_by_others(rows, [_losses(r, num_epochs)[0] for r in repetitions])
    text = _describe(record, repeated, rows, judgement, _changes(record, environment))
  return text, int(judgement.verdict == "differs")


def restore_config(saved: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Return the config that config.json holds; fields that are newer than the run have defaults.

  Raises:
    UserError: a field does not exist any more, or its value is impossible.
  """
  config = from_json(saved, default.get_config())
  if config.data.dir and not pathlib.Path(config.data.dir).expanduser().exists():
    log.info("data.dir: %s does not exist here; using the default", config.data.dir)
    config.data.dir = ""
  try:
    check_config(config, default.get_config())
  except errors.UserError as error:
    raise errors.UserError(
      f"config.json: written by another version: {error}; check out the commit in results.json"
    ) from error
  return config


def _read_record(path: str) -> RunRecord:
  folder = pathlib.Path(path).expanduser()
  if folder.name == "results.json":
    folder = folder.parent
  if not (folder / "config.json").exists():
    raise errors.UserError(f"{path}: no config.json there; name a run folder or its results.json")
  record = run_record.read_record(folder)
  if not record.rows:
    raise errors.UserError(f"{folder}: metrics.jsonl has no epoch; name a run that has trained")
  lineage = run_folder.RunFolder(folder, writer=False).lineage() or record.results.get("lineage")
  if lineage:
    raise errors.UserError(
      f"{folder}: a fork of {lineage[-1].get('run')}, so its config alone does not repeat it; "
      "repeat that run, and fork the repetition"
    )
  return record


def _raise_if_other_data(record: RunRecord, config: ml_collections.ConfigDict) -> None:
  """Raise UserError if the data are not those of the record."""
  import input_pipeline

  expected = record.dataset.get("fingerprint")
  dataset = input_pipeline.load(config)
  if expected and dataset.fingerprint != expected:
    raise errors.UserError(
      f"data.name: {dataset.name} has the fingerprint {dataset.fingerprint[:12]}…, but the record "
      f"was trained on {expected[:12]}…; provide the original data"
    )


def _common(record: RunRecord, repeated: RunRecord, num_epochs: int) -> list[tuple[Row, Row]]:
  """Return the rows of both runs by epoch, with the metrics that both have, without times."""
  runs = [ComparedRun(pathlib.Path(run.path)) for run in (record, repeated)]
  recorded_rows, repeated_rows = (differences.metrics(run)[:num_epochs] for run in runs)
  pairs = []
  for recorded, again in zip(recorded_rows, repeated_rows, strict=False):
    names = recorded.keys() & again.keys()
    pairs.append(({n: recorded[n] for n in names}, {n: again[n] for n in names}))
  if len(pairs) < num_epochs:
    raise errors.UserError(
      f"{repeated.path}: stopped after {len(pairs)} epochs; repeat the command"
    )
  return pairs


def _judge(
  record: RunRecord, repeated: RunRecord, rows: list[tuple[Row, Row]], is_complete: bool
) -> Judgement | None:
  """Return the judgement by the two runs alone; None if further seeds are needed."""
  figures = [name for name in _RESULTS if name in record.results and name in repeated.results]
  same_results = all(record.results[name] == repeated.results[name] for name in figures)
  if all(a == b for a, b in rows) and (same_results or not is_complete):
    return Judgement("same bits", "", None)
  if is_complete:
    split = "test" if "test_accuracy" in figures else "val"  # trials of sweeps are not tested
    a, b = ([row[f"{split}_accuracy"] for row in r.seed_results] for r in (record, repeated))
    if len(a) > 1 and len(b) > 1:
      return _conclude(_welch(a, b), f"{split}_accuracy, Welch's t-test of {len(a)} seeds")
    images = record.dataset["test_examples" if split == "test" else "validation_examples"]
    p = _binomial(a[0], b[0], images)
    return _conclude(p, f"{split}_accuracy, binomial error of {images:,} images")
  a, b = (_losses(r, len(rows)) for r in (record, repeated))
  if len(a) > 1:
    return _conclude(_welch(a, b), f"train_loss, Welch's t-test of {len(a)} seeds")
  return None


def _judge_by_others(rows: list[tuple[Row, Row]], losses: Sequence[float]) -> Judgement:
  """Return the judgement by the training losses of the repetition and of other seeds."""
  from scipy import stats

  recorded, spread = rows[-1][0]["train_loss"], statistics.stdev(losses)
  error = spread * np.sqrt(1 + 1 / len(losses))
  t = (recorded - statistics.fmean(losses)) / error
  p = float(2 * stats.t.sf(abs(t), len(losses) - 1))
  return _conclude(p, f"train_loss, against {len(losses)} seeds trained here")


def _conclude(probability: float, reason: str) -> Judgement:
  is_within = probability >= _LEVEL
  verdict = "within the noise of seeds" if is_within else "differs"
  return Judgement(verdict, reason, probability)


def _welch(a: Sequence[float], b: Sequence[float]) -> float:
  from scipy import stats

  return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def _binomial(a: float, b: float, images: int) -> float:
  """Return the probability that two accuracies differ by at least as much."""
  from scipy import stats

  variance = (a * (1 - a) + b * (1 - b)) / images
  return float(2 * stats.norm.sf(abs(a - b) / np.sqrt(max(variance, 1e-12))))


def _losses(record: RunRecord, epoch: int) -> list[float]:
  """Return the training loss of each seed in an epoch."""
  row = record.rows[epoch - 1]
  return [seed_row["train_loss"] for seed_row in row.get("seeds", [row])]


def _train_others(
  job: Job, num_epochs: int, count: int, train: Callable[[Job, int], None]
) -> list[RunRecord]:
  """Train further seeds for as many epochs; return their files."""
  if count < 1:
    raise errors.UserError("--other_seeds: at least 1 is needed for the spread of seeds; raise it")
  records = []
  for seed in range(job.config.seed + 1, job.config.seed + 1 + count):
    config = job.config.copy_and_resolve_references()
    config.seed = seed
    other = Job(config, job.workdir.with_name(f"{job.workdir.name}_seed_{seed}"))
    log.info("the bits differ; training seed %d for the spread of seeds", seed)
    train(other, num_epochs)
    records.append(run_record.read_record(other.workdir))
  return records


def _changes(record: RunRecord, environment: Row) -> list[str]:
  """Return how this environment differs from the one in the record's results.json."""
  if not record.results:
    return ["unknown, because the record is unfinished"]
  changes = []
  for name in ("versions", "device"):
    before, now = record.results.get(name, {}), environment[name]
    for key in sorted(before.keys() | now.keys()):
      if before.get(key) != now.get(key):
        changes.append(f"{key} {before.get(key, 'not recorded')} → {now.get(key, 'absent')}")
  before, now = (str(x.get("git_commit"))[:12] for x in (record.results, environment))
  return changes if before == now else [*changes, f"commit {before} → {now}"]


def _describe(
  record: RunRecord,
  repeated: RunRecord,
  rows: list[tuple[Row, Row]],
  judgement: Judgement,
  changes: Sequence[str],
) -> str:
  """Return the last epoch's metrics in both runs, the verdict and what changed."""
  recorded, again = rows[-1]
  cells = [
    (name, _number(recorded[name]), _number(again[name])) for name in _SHOWN if name in again
  ]
  if repeated.results and len(rows) == len(record.rows):
    figures = [name for name in _RESULTS if name in record.results and name in repeated.results]
    cells += [(n, _number(record.results[n]), _number(repeated.results[n])) for n in figures]
  probability = judgement.probability
  because = "" if probability is None else f": p = {probability:.2g} ({judgement.reason})"
  lines = [
    f"{record.path}: repeated {len(rows)} of {len(record.rows)} epochs in {repeated.path}",
    "",
    format_table((f"epoch {len(rows)}", "recorded", "repeated"), cells, right=(1, 2)),
    "",
    f"{judgement.verdict}{because}",
    "changed since: " + (", ".join(changes) if changes else "nothing that is recorded"),
  ]
  return "\n".join(lines)


def _number(value: float | None) -> str:
  return "NaN" if value is None else f"{value:.7g}"
