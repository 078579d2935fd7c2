"""Start a run from a checkpoint of another: `--from=RUN[@step]`.

The metrics and the checkpoint of the parent are copied to the fork's run folder, and the fork
resumes there. The order, augmentation and dropout are functions of (seed, epoch, position), so the
fork continues with the epoch that the parent would have run next. lineage.json lists the ancestors.

If only the length and the schedule change, and the new schedule has the same rates for the steps
taken, the fork ends with the same bits as a run with the new config from the start. The log says
whether this holds. A jump of the learning rate and the loss of the optimizer's state need a flag.
"""

import hashlib
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from cifar_jax import errors
from cifar_jax.config import as_json, differences, flatten
from cifar_jax.optim import schedules
from cifar_jax.optim.schedules import Schedule
from cifar_jax.runs import checkpoint_arrays, results, run_folder, test_uses
from cifar_jax.runs.checkpoints import Checkpoints
from cifar_jax.runtime.console import log
from cifar_jax.training import fork_state
from cifar_jax.training.callbacks import Callbacks
from cifar_jax.training.fork_parent import Parent
from cifar_jax.training.fork_state import Changes, UpdateCallbacks
from cifar_jax.types import PyTree, Row

# Prefixes of fields that change no step of a run.
_HARMLESS = (
  "num_epochs",  # if the schedule allows it, which is checked separately
  "schedule.",
  "checkpoint_every",
  "data.dir",
  "data.resident_bytes",
  "data.source",
  "data.workers",
  "early_stopping.",  # replayed on the parent's epochs
  "eval_batch_size",
  "evaluate_train",
  "keep_every",
  "steps_per_dispatch",
  "stop_on_spike.",
  "tta",
)
_IMAGES = "images"  # added to the changed fields if the dataset has another fingerprint
# Prefixes of fields that decide which examples train and which validate.
_SPLIT = (
  "data.name",
  "data.options.",
  "data.split_seed",
  "data.train_examples",
  "data.validation",
  _IMAGES,
)
# Prefixes of fields that change the order of examples. If one of them changes within an epoch, the
# fork would train on some examples twice.
_ORDER = ("seed", "data.", "batch_size", _IMAGES)


class Child(NamedTuple):
  """The run that is about to start.

  Attributes:
    config: its resolved config.
    schedule: its learning rate by step.
    steps_per_epoch, total_steps: its numbers of steps.
    dataset: the content of its dataset.json.
    callbacks: its plateau, early stopping and selection.
    update_callbacks: (state, epoch, metrics) -> state, for all its seeds.
    tree: the content of its checkpoints before the first step.
  """

  config: ml_collections.ConfigDict
  schedule: Schedule
  steps_per_epoch: int
  total_steps: int
  dataset: Row
  callbacks: Callbacks
  update_callbacks: UpdateCallbacks
  tree: PyTree


def begin(
  folder: run_folder.RunFolder, checkpoint_files: Checkpoints, parent: Parent, child: Child
) -> None:
  """Write the lineage, metrics, config and checkpoint of a fork, which can then be resumed.

  Raises:
    UserError: the checkpoint does not fit the config, or a change needs a flag.
  """
  changes = differences(flatten(as_json(parent.config)), flatten(as_json(child.config)))
  if parent.dataset["fingerprint"] != child.dataset["fingerprint"]:
    changes[_IMAGES] = (parent.dataset["name"], child.dataset["name"])
  _raise_if_not_continuable(parent, child, changes)
  tree, notes = _adapt_tree(parent, child, changes)
  if child.callbacks.is_stopped(tree["control"]):
    raise errors.UserError(
      f"--from: early stopping ended {parent.path} after epoch {len(parent.rows)}, as it would "
      "again; change early_stopping, or name an earlier step"
    )
  lr_scale = np.asarray(child.callbacks.lr_scale(tree["control"]))
  rates = _rates(parent, child, (np.asarray(tree["state"].lr_scale), lr_scale))
  tree["state"] = tree["state"].replace(lr_scale=lr_scale)
  notes += _reasons(parent, child, changes)
  _log(parent, child, changes, rates, notes)
  if rates and not parent.fork.confirm_jump:
    raise errors.UserError(
      f"--from: the learning rate would go from {rates[0]:.3g} to {rates[1]:.3g} at step "
      f"{parent.step}, and the steps before did not have the rates of the new schedule; add "
      "--confirm_jump, or set a schedule with the same past"
    )
  if folder.writer:
    test_uses.inherit(folder.path, parent.path)
  folder.write_lineage([*parent.lineage, _describe(parent, child, changes, rates, notes)])
  folder.write_metrics(parent.rows)
  folder.write_config(child.config)
  folder.write_dataset(child.dataset)
  best_epochs = child.callbacks.best_epochs(tree["control"])
  selected = [parent.rows[epoch - 1]["step"] if epoch else 0 for epoch in best_epochs]
  checkpoint_files.save_latest(parent.step, tree, selected if any(selected) else None)
  checkpoint_files.wait()


def _adapt_tree(parent: Parent, child: Child, changes: Changes) -> tuple[PyTree, list[str]]:
  """Return the checkpoint that the fork starts from, and notes on what its parent did not have."""
  fresh = checkpoint_arrays.to_host(child.tree)
  arrays, notes = fork_state.adapt(parent, fresh, changes, child.config)
  tree = checkpoint_arrays.fit(arrays, child.tree, parent.path)
  tree["control"], callback_notes = fork_state.adapt_callbacks(
    parent.rows,
    tree["control"],
    child.tree["control"],
    child.update_callbacks,
    child.config,
    changes,
    bool(_begins_with(changes, _SPLIT)),
  )
  return tree, [*notes, *callback_notes]


def _begins_with(changes: Changes, names: tuple[str, ...]) -> list[str]:
  return [change for change in changes if change.startswith(names)]


def _raise_if_not_continuable(parent: Parent, child: Child, changes: Changes) -> None:
  """Raise UserError unless the child's run can continue from the parent's step."""
  size, name = child.steps_per_epoch, f"{parent.path}@{parent.step}"
  odd_epochs = [row["epoch"] for row in parent.rows if row["step"] != row["epoch"] * size]
  if odd_epochs == [parent.config.num_epochs] and parent.config.last_epoch != 1:
    raise errors.UserError(
      f"--from: {name} is the end of a run whose last epoch was cut short (last_epoch is "
      f"{parent.config.last_epoch}); name an earlier step"
    )
  if odd_epochs or len(parent.rows) != parent.step // size:
    raise errors.UserError(
      f"batch_size: the epochs of {parent.path} do not have the {size} steps of an epoch here, so "
      f"step {parent.step} cannot be continued; keep the batches and the number of examples, or "
      f"take only the weights (--config.model.pretrained={parent.path} instead of --from)"
    )
  reordering = [name for name in _begins_with(changes, _ORDER) if not name.startswith(_HARMLESS)]
  if parent.step % size and reordering:
    raise errors.UserError(
      f"{reordering[0]}: changes the order of examples within an epoch, and {name} is not at "
      "the end of one; name another step"
    )
  if parent.step >= child.total_steps:
    raise errors.UserError(
      f"num_epochs: {name} is at epoch {len(parent.rows)} already, and the fork ends after "
      f"{child.config.num_epochs}; raise it, or name an earlier step"
    )


def _rates(
  parent: Parent, child: Child, scales: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float] | None:
  """Return the learning rates before and after a jump; None if the schedules have the same past."""
  config, size = parent.config, child.steps_per_epoch
  schedule = schedules.create(
    config.schedule, config.optimizer.learning_rate, size, schedules.count_steps(config, size)
  )
  steps = jnp.arange(parent.step)
  before, after = (jax.vmap(rate)(steps) for rate in (schedule, child.schedule))
  if np.array_equal(before, after) and np.array_equal(*scales):
    return None
  last, first = schedule(parent.step - 1), child.schedule(parent.step)
  return float(last * scales[0].mean()), float(first * scales[1].mean())


def _reasons(parent: Parent, child: Child, changes: Changes) -> list[str]:
  """Return why the fork differs from a run of its config from the start, besides the rates."""
  reasons = []
  if names := [name for name in changes if not name.startswith(_HARMLESS)]:
    reasons.append(f"{', '.join(names)} had other values in the steps before")
  if "num_epochs" in changes and child.config.lookahead.every:
    reasons.append("the mixing of Lookahead depends on num_epochs")
  if "num_epochs" in changes and child.config.data.file_by_file:
    reasons.append("num_epochs divides the epochs among the files (data.file_by_file)")
  if _begins_with(changes, _SPLIT):
    log.warning(
      "--from: the parent may have trained on images that are now used for validation, so the "
      "validation figures of the fork are optimistic"
    )
  return reasons


def _log(
  parent: Parent,
  child: Child,
  changes: Changes,
  rates: tuple[float, float] | None,
  notes: list[str],
) -> None:
  log.info("Forking %s at step %d, after epoch %d", parent.path, parent.step, len(parent.rows))
  for name, (there, here) in changes.items():
    log.info("  %s: %s there, %s here", name, there, here)
  if rates:
    log.info("  learning rate: %.3g before the fork, %.3g after it", *rates)
    notes = [*notes, "the rates of the steps before are not those of its schedule"]
  if notes:
    log.info("  not the same as a run with this config from the start: %s", "; ".join(notes))
  else:
    log.info("  the same as a run of %d epochs from the start", child.config.num_epochs)


def _describe(
  parent: Parent,
  child: Child,
  changes: Changes,
  rates: tuple[float, float] | None,
  notes: list[str],
) -> Row:
  """Return the parent's entry in lineage.json."""
  config = json.dumps(as_json(parent.config), sort_keys=True)
  return {
    "run": str(parent.path),
    "step": parent.step,
    "epoch": len(parent.rows),
    "config_sha256": hashlib.sha256(config.encode()).hexdigest(),
    "fingerprint": parent.dataset["fingerprint"],
    "git_commit": parent.results.get("git_commit"),
    "selected_on": results.selected_on(parent.config),
    "config_changes": {name: list(values) for name, values in changes.items()},
    "learning_rates": list(rates) if rates else None,
    "differences": notes,
  }
