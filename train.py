"""The training program, from a config to a run folder: `train_and_evaluate`.

`Trainer.run` is the loop. What one step computes is in cifar_jax/training/steps.py, and how steps
become compiled, parallel programs in cifar_jax/training/compiled_steps.py.
"""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from cifar_jax import errors
from cifar_jax.optim import optimizers
from cifar_jax.runs import (
  checkpoint_arrays,
  checkpoints,
  plots,
  results,
  run_folder,
  test_uses,
)
from cifar_jax.runtime import distributed, monitoring
from cifar_jax.runtime.console import log, progress
from cifar_jax.runtime.signals import Interrupted, StopPoint, any_process, stop_signals
from cifar_jax.training import (
  callback_messages,
  compiled_steps,
  continuing,
  fork_parent,
  forking,
  gradients,
)
from cifar_jax.training.callbacks import Callbacks
from cifar_jax.types import Row, Variables
from configs import default
from experiment import Experiment, resolve
from models import transfer

_MAX_QUEUED = 4  # dispatches that may be queued before the host waits for the oldest
Pause: TypeAlias = Callable[[Sequence[Row]], bool]


class Paused(Exception):
  """`pause` ended the run before its last epoch; everything is saved."""


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str,
  make_experiment: Callable[[ml_collections.ConfigDict], Experiment] = Experiment,
  heartbeat: float | None = None,
  profile: tuple[int, int] | None = None,
  evaluate_test: bool = True,
  fork: fork_parent.Fork | None = None,
  pause: Pause | None = None,
) -> Row:
  """Train as `config` describes, in the run folder `workdir`, and test the selected weights once.

  An unfinished run of the same config is resumed; on CPU it ends with the bits of a run that was
  never interrupted. A finished run is left unchanged. A finished run of fewer epochs is continued,
  if the result will be that of a run that had all epochs from the start.

  Args:
    config: the experiment, as a file of configs/ returns it.
    workdir: the run folder; created if needed.
    make_experiment: builds what the resolved config describes.
    heartbeat: seconds between progress lines, as for monitoring.Heartbeat.
    profile: the first and the last step to trace, into the folder `profile`; None for none.
    evaluate_test: whether to test at all. False for the trials of a sweep, which are ranked by
      validation metrics.
    fork: the checkpoint of another run to start from; None to start from the beginning.
    pause: called before every epoch but the first, with the rows of metrics.jsonl so far. If it
      returns True, the run ends there, and another call resumes it. It must return the same in all
      processes.

  Returns:
    The content of results.json; without `evaluate_test` it has no test metrics.

  Raises:
    UserError: the config, a file or the dataset is invalid or unavailable, the loss became NaN, or
      the loss jumped (config.stop_on_spike).
    Interrupted: SIGTERM or SIGINT arrived; the state is saved.
    Paused: `pause` returned True; the state is saved.
  """
  config = resolve(config)
  folder = run_folder.RunFolder(workdir, writer=jax.process_index() == 0)
  with folder.locked(), contextlib.closing(folder):
    folder.raise_if_unshared()
    if not distributed.same_as_first("config", config.to_json_best_effort):
      raise errors.UserError("--config: differs from the first process's; start the same command")
    earlier_epochs = folder.epochs_before_more(config, default.get_config())
    if earlier_epochs is None:
      folder.raise_if_other_config(config, default.get_config())
    parent = fork_parent.find_parent(folder, fork, default.get_config())
    finished = folder.results()
    if finished is not None and earlier_epochs is None:
      log.info("%s: finished already; nothing to do", folder.path)
      return finished
    with stop_signals() as stop:
      experiment = make_experiment(config)
      folder.raise_if_other_data(experiment.describe_data())
      if earlier_epochs is not None:
        schedule, steps_per_epoch = experiment.schedule, experiment.steps_per_epoch
        continuing.lengthen(folder, earlier_epochs, config, schedule, steps_per_epoch)
      steps = profile if folder.writer else None
      trace = monitoring.Trace(steps, folder.path / "profile", experiment.total_steps)
      with contextlib.closing(trace):
        trainer = Trainer(experiment, folder, stop, trace, parent)
        return trainer.run(heartbeat if folder.writer else 0, evaluate_test, pause)


class Trainer:
  """One run, from its newest checkpoint to results.json.

  Args:
    experiment: what to train.
    folder: the run folder, locked.
    stop: receives the number of a signal that asks the run to stop.
    trace: traces chosen steps.
    parent: the checkpoint of another run to start from, if the folder has none.

  Raises:
    UserError: a checkpoint or a file of the folder does not fit the config.
  """

  def __init__(
    self,
    experiment: Experiment,
    folder: run_folder.RunFolder,
    stop: list[int],
    trace: monitoring.Trace,
    parent: fork_parent.Parent | None = None,
  ):
    config = experiment.config
    self._config, self._folder, self._stop, self._trace = config, folder, stop, trace
    self._callbacks = Callbacks(config)
    over_seeds = experiment.over_seeds
    self._update_callbacks = jax.jit(over_seeds(self._callbacks.update, (0, None, 0)))
    self._keep_improved = jax.jit(over_seeds(_keep_improved), donate_argnums=2)
    self._penalty = jax.jit(
      over_seeds(lambda variables: optimizers.l2_penalty(variables["params"], config.loss.l2))
    )
    self._checkpoints = checkpoints.Checkpoints(folder.path)
    needs_weights = self._checkpoints.is_empty() and parent is None
    source = config.model.pretrained if needs_weights else ""
    weights, self._weights_folder = transfer.load_with_folder(source)
    self._state = experiment.init(weights)
    self._callbacks_state = jax.jit(over_seeds(lambda seed: self._callbacks.init()))(
      experiment.seed_array()
    )
    self._best = self._state.variables()
    self._best_is_new = False
    self._step = 0
    self._rows: list[Row] = []
    if parent is not None:
      self._fork(parent, experiment)
    clock = self._restore(experiment)
    # The features of a frozen base depend on the weights, so they are computed after the restore.
    self._experiment = experiment.precompute_base(self._state)
    self._compiled = self._experiment.compile_steps()
    self._clock = monitoring.Clock(lambda: self._compiled.compile_seconds, *clock)
    self._curves = plots.LearningCurves(folder.path / "plots" / "learning_curves.png")

  def run(
    self,
    heartbeat_seconds: float | None = None,
    evaluate_test: bool = True,
    pause: Pause | None = None,
  ) -> Row:
    """Train until the last step or early stopping, test, and return the content of results.json.

    Raises:
      UserError: the loss became NaN or jumped, or a file cannot be written.
      Interrupted: SIGTERM or SIGINT arrived; the state is saved.
      Paused: `pause` returned True; the state is saved.
    """
    self._begin(heartbeat_seconds)
    self._clock.start()
    with contextlib.closing(self._checkpoints):  # even after an error, let a begun save finish
      while not self._is_finished():
        if pause is not None and self._rows and pause(self._rows):
          self._end_paused()
        self._train_epoch()
        row = self._end_epoch()
        is_stopping = any_process(self._stop)
        self._save_if_due(is_stopping)
        self._show(row)
        if is_stopping and not self._is_finished():
          self._interrupt()
      return self._finish(evaluate_test)

  def _fork(self, parent: fork_parent.Parent, experiment: Experiment) -> None:
    """Write the folder of a run that has trained up to the parent's checkpoint."""
    child = forking.Child(
      config=self._config,
      schedule=experiment.schedule,
      steps_per_epoch=experiment.steps_per_epoch,
      total_steps=experiment.total_steps,
      dataset=experiment.describe_data(),
      callbacks=self._callbacks,
      update_callbacks=self._update_callbacks,
      tree=self._checkpoint(np.zeros(2)),
    )
    forking.begin(self._folder, self._checkpoints, parent, child)

  def _restore(self, experiment: Experiment) -> tuple[float, float]:
    """Continue from the newest checkpoint, if there is one; return the clock's two times."""
    template = self._checkpoint(np.zeros(2))
    seconds = (0.0, 0.0)
    if (restored := self._checkpoints.restore_latest(template)) is not None:
      self._step, tree = restored
      self._state, self._callbacks_state = tree["state"], tree["control"]
      self._best = tree["best"]
      seconds = tuple(tree["seconds"].tolist())
      num_epochs = self._step // experiment.steps_per_epoch
      if self._step == experiment.total_steps:  # the last epoch may be a part of one
        num_epochs = -(-self._step // experiment.steps_per_epoch)
      self._rows = self._folder.metrics_until(self._step, num_epochs)
      if any(self._callbacks.best_epochs(self._callbacks_state)):
        self._checkpoints.keep_best(self._selected_steps(), self._best)
      log.info(
        "Resuming %s at step %d, after epoch %d", self._folder.path, self._step, len(self._rows)
      )
    self._saved_step = self._step
    self._state = compiled_steps.replicate(self._state)
    # Copies, because the first step may write its results over the state's own arrays (donation).
    copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
    self._best = copy(compiled_steps.replicate(self._best))
    return seconds

  def _begin(self, heartbeat_seconds: float | None) -> None:
    """Log a description of the run, and write config.json and dataset.json."""
    config, experiment = self._config, self._experiment
    log.info(
      "%s on %s: %s parameters, %d training, %d validation and %d test examples, "
      "%d steps an epoch, %d × %s, %s",
      config.model.name,
      experiment.dataset.name,
      f"{sum(experiment.parameters):,}",
      len(experiment.splits.train),
      len(experiment.splits.validation),
      len(experiment.splits.test),
      experiment.steps_per_epoch,
      jax.device_count(),
      jax.devices()[0].device_kind,
      config.dtype,
    )
    if (num_passes := gradients.num_passes(config)) > 1:
      norm = ", by whose statistics batch norm normalises" if experiment.parameters[1] else ""
      log.info(
        "microbatch: the mean gradient of %d passes of %d examples%s",
        num_passes,
        config.microbatch,
        norm,
      )
    if config.remat and jax.default_backend() == "cpu":
      log.warning("remat: saves no memory on CPU, and takes longer; set microbatch instead")
    if keep_every := config.keep_every:
      tree = self._checkpoint(np.zeros(2))
      size = checkpoint_arrays.num_bytes(tree) / 1e6
      count = config.num_epochs // keep_every - len(self._rows) // keep_every
      log.info("keep_every: %d more checkpoints of %.1f MB, %.1f MB", count, size, count * size)
    self._folder.write_config(config)
    self._folder.write_dataset(experiment.describe_data())
    if self._folder.writer and self._weights_folder is not None:
      test_uses.inherit(self._folder.path, self._weights_folder)
    self._heartbeat = monitoring.Heartbeat(
      heartbeat_seconds,
      self._step,
      experiment.total_steps,
      experiment.steps_per_epoch,
      config.batch_size * config.num_seeds,
      clock=lambda: time.monotonic() - self._compiled.compile_seconds,
    )
    self._has_shown_memory = False

  def _is_finished(self) -> bool:
    is_stopped = self._callbacks.is_stopped(self._callbacks_state)
    return self._step >= self._experiment.total_steps or is_stopped

  def _train_epoch(self) -> None:
    """Train for the rest of the epoch; raise if the loss is NaN or the run must stop."""
    experiment = self._experiment
    steps_per_epoch = experiment.steps_per_epoch
    epoch, first_step = divmod(self._step, steps_per_epoch)
    end = min((epoch + 1) * steps_per_epoch, experiment.total_steps)
    start_step, start_seconds = self._step, self._clock.read()
    size = experiment.steps_per_dispatch
    dispatches = compiled_steps.list_dispatches(end - self._step, size)
    shards = experiment.train_shards(epoch, dispatches, first_step)
    title, num_steps = f"epoch {epoch + 1}/{self._config.num_epochs}", first_step + end - self._step
    queue: deque[tuple[int, jax.Array]] = deque()
    stop_point = StopPoint(self._stop, _MAX_QUEUED)
    with progress(title, num_steps, "steps", first_step, lines=False) as advance:
      for i, (count, (shard, resident)) in enumerate(zip(dispatches, shards, strict=True), 1):
        self._trace.before(self._step, count, self._state)
        self._state, loss = self._compiled.train(count, self._state, shard, resident)
        self._step += count
        self._trace.after(self._step, self._state)
        queue.append((count, loss))
        if len(queue) > _MAX_QUEUED:
          num_done, loss = queue.popleft()
          advance(num_done, loss=float(np.mean(loss)))
          self._heartbeat.advance(num_done, float(np.mean(loss)))
          if not np.isfinite(loss).any():
            break
        if stop_point.is_reached(i) and self._step < end:
          break
    self._sums = jax.device_get(self._state.sums)
    if queue:
      self._heartbeat.advance(sum(count for count, _ in queue), float(np.mean(queue[-1][1])))
    monitoring.raise_if_nan(self._sums.bad_step, steps_per_epoch, self._folder.path / "checkpoints")
    num_images = (self._step - start_step) * self._config.batch_size * self._config.num_seeds
    self._images_per_second = num_images / (self._clock.read() - start_seconds)
    if self._step < end:
      self._save()
      self._interrupt()

  def _end_epoch(self) -> Row:
    """Validate, update the callbacks and the best weights, and write the epoch's row."""
    experiment, epoch = self._experiment, len(self._rows)
    train_loss = self._sums.loss / self._sums.examples
    checkpoints_folder = self._folder.path / "checkpoints"
    monitoring.raise_if_spike(
      self._rows, train_loss, self._config.stop_on_spike, checkpoints_folder
    )
    variables = self._state.variables()
    metrics = self._measure_epoch(variables)
    before = self._callbacks_state
    self._callbacks_state = jax.device_get(self._update_callbacks(before, epoch, metrics))
    self._callback_lines = callback_messages.describe_changes(
      self._config,
      experiment.seeds,
      before,
      self._callbacks_state,
      epoch + 1,
      np.asarray(experiment.schedule(self._step - 1)),
    )
    lr_scale = self._callbacks.lr_scale(self._callbacks_state)
    self._state = self._state.replace(lr_scale=compiled_steps.replicate(lr_scale))
    is_improved = self._callbacks.is_improved(self._callbacks_state)
    if np.any(is_improved):
      self._best = self._keep_improved(is_improved, variables, self._best)
      self._best_is_new = True
    row = results.epoch_row(self._step, epoch + 1, metrics, experiment.seeds)
    if (file := experiment.file(epoch)) is not None:
      row["file"] = file
    row["images_per_second"] = self._images_per_second
    row["seconds"] = self._clock.end_epoch()
    self._rows.append(row)
    # Write the metrics before the checkpoint, so that every checkpointed epoch has a row.
    self._folder.write_metrics(self._rows)
    return row

  def _measure_epoch(self, variables: Variables) -> dict[str, np.ndarray]:
    """Return the epoch's metrics by name: float64 scalars, or [seeds]."""
    sums, validation = self._sums, self._experiment.splits.validation
    metrics: dict[str, Any] = {
      "train_loss": sums.loss / sums.examples,
      "train_accuracy": sums.correct / sums.examples,
      "train_top5": sums.top5 / sums.examples,
    }
    if len(validation):
      if self._config.data.validation == "test":
        self._record_test_use(f"validation of epoch {len(self._rows) + 1}")
      val_metrics = self._experiment.evaluate(self._compiled, variables, validation)
      metrics |= {f"val_{name}": value for name, value in val_metrics.items()}
    if self._config.loss.l2:
      metrics["train_objective"] = metrics["train_loss"] + sums.penalty / sums.examples
      if len(validation):
        metrics["val_objective"] = metrics["val_loss"] + np.asarray(self._penalty(variables))
    rate = self._experiment.schedule(self._step - 1)
    metrics["learning_rate"] = np.asarray(rate) * np.asarray(self._state.lr_scale)
    return {name: np.asarray(value, np.float64) for name, value in metrics.items()}

  def _save_if_due(self, is_stopping: bool) -> None:
    every, keep_every = self._config.checkpoint_every, self._config.keep_every
    is_kept = keep_every > 0 and len(self._rows) % keep_every == 0
    if len(self._rows) % every == 0 or is_kept or is_stopping or self._is_finished():
      self._save(is_kept)

  def _save(self, is_kept: bool = False) -> None:
    """Start writing `latest`, also as `kept` if `is_kept`, and `best` if it has changed."""
    selected_steps = self._selected_steps() if self._best_is_new else None
    tree = self._checkpoint(self._clock.to_array())
    self._checkpoints.save_latest(self._step, tree, selected_steps, is_kept)
    self._best_is_new = False
    self._saved_step = self._step

  def _selected_steps(self) -> list[int]:
    """Return the step at which each seed's best weights were selected; 0 if no epoch was best."""
    best_epochs = self._callbacks.best_epochs(self._callbacks_state)
    return [self._rows[epoch - 1]["step"] if epoch else 0 for epoch in best_epochs]

  def _checkpoint(self, seconds: np.ndarray) -> dict[str, Any]:
    """Return the tree that `latest` holds."""
    return {
      "state": self._state,
      "control": self._callbacks_state,
      "seconds": seconds,
      "best": self._best,
    }

  def _show(self, row: Row) -> None:
    """Show an epoch in TensorBoard, in the learning curves and in the log."""
    self._folder.write_scalars(self._rows)
    if self._folder.writer:
      title = f"{self._config.model.name} on {self._experiment.dataset.name}"
      self._curves.draw(self._rows, title, at_once=self._is_finished())
    for line in [results.epoch_line(row, self._config.num_epochs), *self._callback_lines]:
      log.info("%s", line)
    if not self._has_shown_memory and (line := monitoring.memory_line(monitoring.memory())):
      log.info("memory: %s", line)
    self._has_shown_memory = True

  def _interrupt(self) -> None:
    """Wait for the checkpoint and raise Interrupted."""
    self._checkpoints.wait()
    raise Interrupted(self._stop[0] if self._stop else signal.SIGTERM)

  def _end_paused(self) -> NoReturn:
    """Wait for the checkpoint of this step and raise Paused."""
    if self._saved_step < self._step:
      self._save()
    self._checkpoints.wait()
    raise Paused

  def _finish(self, evaluate_test: bool) -> Row:
    """Evaluate the selected weights, on the test set once if at all, and write results.json."""
    seconds = self._clock.total()
    splits, evaluate = self._experiment.splits, self._experiment.evaluate
    best_epochs = self._callbacks.best_epochs(self._callbacks_state)
    if self._config.select.monitor:
      seeds = self._experiment.seeds
      log.info("%s", callback_messages.describe_selection(self._config, seeds, best_epochs))
    metrics: dict[str, dict[str, np.ndarray]] = {}
    if evaluate_test:
      self._record_test_use("selected weights")
      metrics["test"] = evaluate(self._compiled, self._best, splits.test)
    if evaluate_test and self._config.loss.l2:
      metrics["test"]["objective"] = metrics["test"]["loss"] + np.asarray(self._penalty(self._best))
    if evaluate_test and (tta := self._config.tta):
      self._record_test_use(f"selected weights, test-time augmentation {tta}")
      metrics["test_tta"] = evaluate(self._compiled, self._best, splits.test, tta)
    if self._config.evaluate_train:
      metrics["train"] = evaluate(self._compiled, self._best, splits.train)
    self._checkpoints.wait()
    epochs_run = self._callbacks.epochs_run(self._callbacks_state, len(self._rows))
    content = results.collect(
      self._experiment.summary(), self._rows, best_epochs, epochs_run, metrics
    )
    content["seconds_to_train"] = seconds
    content["compile_seconds"] = self._compiled.compile_seconds
    content["memory"] = monitoring.memory()
    content["test_uses"] = test_uses.count(self._folder.path)
    content |= results.ancestry(self._folder, content["selected_on"])
    self._folder.write_results(content)
    return content

  def _record_test_use(self, purpose: str) -> None:
    if self._folder.writer:
      test_uses.record(self._folder.path, "train", purpose)


def _keep_improved(is_improved: jax.Array, new: Variables, best: Variables) -> Variables:
  return jax.tree.map(lambda n, b: jnp.where(is_improved, n, b), new, best)
