"""Write the run folders of trials that trained together, from the run folder of their group."""

import jax
import ml_collections
import numpy as np
from etils import epath

from cifar_jax.runs import checkpoints, plots, test_uses
from cifar_jax.runs.run_folder import RunFolder
from cifar_jax.training.callbacks import Callbacks
from cifar_jax.types import Row
from tuning.trials import Trial


def write_run(
  group: epath.Path,
  group_results: Row,
  i: int,
  trial: Trial,
  config: ml_collections.ConfigDict,
) -> None:
  """Write the run folder of trial `i` of a finished group, unless its loss became NaN.

  The folder has no checkpoints/latest, because there is nothing to resume.

  Args:
    group: the group's run folder.
    group_results: the contents of its results.json.
  """
  rows = [_trial_row(row, i) for row in RunFolder(group, writer=False).metrics()]
  rows = rows[: _epochs_run(config, rows)]
  trial_results = group_results["per_seed"][i]
  best_epoch = trial_results["best_epoch"]
  if not best_epoch or any(row["train_loss"] is None for row in rows):
    return
  if trial.path.exists():
    trial.path.rmtree()  # an interrupted call left it incomplete
  folder = RunFolder(trial.path)
  with folder.locked():
    folder.write_config(config)
    folder.write_dataset(group_results["data"])
    folder.write_metrics(rows)
    _, best = checkpoints.read_best(group, seed=i)
    store = checkpoints.Checkpoints(trial.path)
    store.save_best([rows[best_epoch - 1]["step"]], best)
    store.close()
    folder.write_scalars(rows)
    folder.close()
    title = f"{group_results['model']} on {group_results['data']['name']}"
    plots.draw_learning_curves(rows, title, trial.path / "plots" / "learning_curves.png")
    test_uses.inherit(trial.path, group)
    results = _trial_results(group_results, trial_results, len(rows))
    folder.write_results(results | {"test_uses": test_uses.count(trial.path)})


def _trial_results(group_results: Row, trial_results: Row, epochs_run: int) -> Row:
  """Return the contents of a trial's results.json."""
  metrics = {
    name: value for name, value in trial_results.items() if name not in ("seed", "best_epoch")
  }
  shared = {
    name: value
    for name, value in group_results.items()
    if name not in ("per_seed", "diverged_seeds")
    and not name.startswith(("test_", "val_", "train_"))
  }
  return (
    metrics
    | {"best_epoch": trial_results["best_epoch"]}
    | shared
    | {
      "seeds": [trial_results["seed"]],
      "epochs_run": epochs_run,
      "trained_together": len(group_results["seeds"]),
    }
  )


def _trial_row(row: Row, i: int) -> Row:
  """Return a trial's row of metrics.jsonl, with its share of the speed and the group's seconds."""
  metrics = {name: value for name, value in row["seeds"][i].items() if name != "seed"}
  return {
    "step": row["step"],
    "epoch": row["epoch"],
    **metrics,
    "images_per_second": row["images_per_second"] / len(row["seeds"]),
    "seconds": row["seconds"],
  }


def _epochs_run(config: ml_collections.ConfigDict, rows: list[Row]) -> int:
  """Return the number of epochs until early stopping, which the group ignores, ends the trial."""
  callbacks = Callbacks(config)
  update, state = jax.jit(callbacks.update), callbacks.init()
  for epoch, row in enumerate(rows):
    values = {name: np.float32(np.nan if v is None else v) for name, v in row.items()}
    state = update(state, epoch, values)
    if callbacks.is_stopped(state):
      return epoch + 1
  return len(rows)
