"""The initial state of a fork: the parent's arrays where the new config has a place for them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from cifar_jax import errors
from cifar_jax.runs import checkpoint_arrays
from cifar_jax.runs.checkpoint_arrays import Arrays
from cifar_jax.training.callbacks import CallbacksState
from cifar_jax.training.fork_parent import Parent
from cifar_jax.types import Row

# The fields that differ, with the parent's and the fork's value.
Changes = Mapping[str, tuple[Any, Any]]
# (state, epoch from 0, metrics) -> state, as of Callbacks.update, for all seeds.
UpdateCallbacks = Callable[[CallbacksState, int, Mapping[str, np.ndarray]], CallbacksState]

_OPTIMIZER, _PROXY, _KEY = "state.opt_state.", "state.proxy.", "state.key"
# Copies of the weights: the prefix of each, and the field that asks for it.
_COPIES = {"state.average.": "ema_decay", "state.slow.": "lookahead.every"}


def adapt(
  parent: Parent, fresh: Arrays, changes: Changes, config: ml_collections.ConfigDict
) -> tuple[Arrays, list[str]]:
  """Return a fork's initial arrays by path, and notes on what does not come from its parent.

  Args:
    fresh: the arrays of a run with the fork's config before its first step.
    config: the fork's config.

  Raises:
    UserError: the network or the number of seeds differs, or the optimizer differs and no flag
      drops its state.
  """
  if "num_seeds" in changes:
    there, here = changes["num_seeds"]
    raise errors.UserError(
      f"num_seeds: {there} in {parent.path}, {here} now; a fork must keep its parent's seeds"
    )
  replaced = (_OPTIMIZER, _PROXY, _KEY, *_COPIES)
  arrays = {path: a for path, a in parent.arrays.items() if not path.startswith(replaced)}
  _raise_if_other_network(parent, arrays, fresh)
  arrays[_KEY] = fresh[_KEY]
  notes: list[str] = []
  for part, part_notes in (
    _adapt_copies(parent, fresh),
    _adapt_optimizer(parent, fresh, changes),
    _adapt_proxy(parent, fresh, config.proxy.learn_every),
  ):
    arrays |= part
    notes += part_notes
  return arrays, notes


def _adapt_copies(parent: Parent, fresh: Arrays) -> tuple[Arrays, list[str]]:
  """Return the copies of the weights; those that the parent lacks start from its weights."""
  arrays: Arrays = {}
  notes = []
  for prefix, field in _COPIES.items():
    wanted = [path for path in fresh if path.startswith(prefix)]
    is_new = not any(path.startswith(prefix) for path in parent.arrays)
    source = "state." if is_new else prefix
    arrays |= {path: parent.arrays[source + path.removeprefix(prefix)] for path in wanted}
    if wanted and is_new:
      notes.append(f"the weights of {field} start from those of the checkpoint")
  return arrays, notes


def _adapt_optimizer(parent: Parent, fresh: Arrays, changes: Changes) -> tuple[Arrays, list[str]]:
  """Return the optimizer's state: the parent's, or a new one at the parent's step."""
  if not _needs_fresh_optimizer(parent, fresh, changes):
    return _select(parent.arrays, _OPTIMIZER), []
  step = f"{_OPTIMIZER}step"  # the schedule continues
  return _select(fresh, _OPTIMIZER) | {step: parent.arrays[step]}, ["the optimizer's state is new"]


def _adapt_proxy(parent: Parent, fresh: Arrays, learn_every: int) -> tuple[Arrays, list[str]]:
  """Return the proxy's state: the parent's, or a new one at the step that it would have reached."""
  old, new = _select(parent.arrays, _PROXY), _select(fresh, _PROXY)
  if not new:
    return {}, []
  if not checkpoint_arrays.find_mismatch(old, new):
    return old, []
  step = f"{_PROXY}opt_state.step"
  steps = np.full_like(new[step], -(-parent.step // learn_every))
  return new | {step: steps}, ["the proxy network is new"]


def _raise_if_other_network(parent: Parent, arrays: Arrays, fresh: Arrays) -> None:
  for part in ("state.params.", "state.batch_stats."):
    if mismatch := checkpoint_arrays.find_mismatch(_select(arrays, part), _select(fresh, part)):
      path, there, here = mismatch
      raise errors.UserError(
        f"model.name: the network of {parent.path} differs: {path.removeprefix('state.')} is "
        f"{there} there but {here} with this config; a fork must keep its parent's network"
      )


def _needs_fresh_optimizer(parent: Parent, fresh: Arrays, changes: Changes) -> bool:
  """Return whether the optimizer starts anew; raise UserError if that needs to be confirmed."""
  if parent.fork.fresh_optimizer:
    return True
  reason = ""
  if "optimizer.name" in changes:
    reason = "it is {} there and {} here".format(*changes["optimizer.name"])
  elif mismatch := checkpoint_arrays.find_mismatch(
    _select(parent.arrays, _OPTIMIZER), _select(fresh, _OPTIMIZER)
  ):
    path, there, here = mismatch
    reason = f"{path.removeprefix('state.')} is {there} there but {here} with this config"
  if reason:
    raise errors.UserError(
      f"optimizer.name: the state of {parent.path} does not fit the optimizer: {reason}; add "
      "--fresh_optimizer to drop that state, or keep the optimizer"
    )
  return False


def _select(arrays: Arrays, prefix: str) -> Arrays:
  return {path: array for path, array in arrays.items() if path.startswith(prefix)}


def adapt_callbacks(
  rows: Sequence[Row],
  control: CallbacksState,
  fresh: CallbacksState,
  update: UpdateCallbacks,
  config: ml_collections.ConfigDict,
  changes: Changes,
  has_other_split: bool,
) -> tuple[CallbacksState, list[str]]:
  """Return a fork's initial callback states, and notes on what does not come from its parent.

  The plateau and early stopping, if their fields differ, start as if they had watched the parent's
  epochs. The selection starts anew if its fields or the validation examples differ, because the
  weights that would have been best in those epochs are gone.

  Args:
    rows: the parent's rows of metrics.jsonl.
    control: the parent's callback states.
    fresh: the callback states before the first epoch.
    config: the fork's config.

  Raises:
    UserError: the parent's epochs lack a metric that a callback monitors.
  """
  names = [name for name in ("plateau", "early_stopping") if _has_changed(name, changes)]
  monitors = {config[name].monitor: name for name in names}
  for monitor, name in monitors.items():
    if rows and monitor and monitor not in rows[0]:
      raise errors.UserError(
        f"{name}.monitor: the parent's epochs have no {monitor}; monitor another metric"
      )
  replayed = fresh
  for epoch, row in enumerate(rows if names else ()):
    replayed = update(replayed, epoch, _metrics(row, config))
  adapted = control | {name: jax.device_get(replayed[name]) for name in names}
  # Seeds that had stopped early selected from fewer epochs.
  has_stopped = bool(np.any(np.asarray(control["early_stopping"].stopped_epoch) >= 0))
  is_other_choice = has_stopped and "early_stopping" in names
  if not (_has_changed("select", changes) or has_other_split or is_other_choice):
    return adapted, []
  note = "the best epoch is chosen from those after the checkpoint"
  return adapted | {"select": jax.device_get(fresh["select"])}, [note]


def _has_changed(section: str, changes: Changes) -> bool:
  return any(name.startswith(f"{section}.") for name in changes)


def _metrics(row: Row, config: ml_collections.ConfigDict) -> dict[str, np.ndarray]:
  """Return an epoch's metrics, float64 scalars or [seeds]; NaN for a monitored one it lacks."""
  monitors = [config[name].monitor for name in ("plateau", "early_stopping", "select")]
  names = [name for name in row if name.startswith(("train_", "val_"))]
  seed_rows = row.get("seeds", [row])
  return {
    name: np.array([seed_row.get(name) for seed_row in seed_rows], np.float64)[
      ... if "seeds" in row else 0
    ]
    for name in [*names, *filter(None, monitors)]
  }
