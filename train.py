"""The training program, from a config to a run folder: `train_and_evaluate`, in named sections.

What one step computes (`TrainState`, `make_train_step`, `make_eval_step`) is in steps.py, and how
steps become compiled, parallel programs in programs.py.
"""

import contextlib
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from cifar_jax import errors
from cifar_jax.optim import optimizers
from cifar_jax.runs import checkpoints, plots, results, run_folder
from cifar_jax.runtime import distributed, monitoring
from cifar_jax.runtime.console import log, progress
from cifar_jax.runtime.signals import Interrupted, any_process, stop_signals
from cifar_jax.training import compiled_steps
from cifar_jax.training.controls import Controls
from cifar_jax.training.steps import Sums
from configs import default
from experiment import Experiment, resolve
from models import transfer

PyTree = Any
_IN_FLIGHT = 4  # dispatches that may be queued before the host waits for the oldest


def train_and_evaluate(
  config: ml_collections.ConfigDict,
  workdir: str,
  make_experiment: Callable[[ml_collections.ConfigDict], Experiment] = Experiment,
  heartbeat: float | None = None,
  profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
  """Trains as `config` says, in the run folder `workdir`, and tests the selected weights once.

  A folder with an unfinished run of the same config is resumed, bit for bit as if it had never
  been interrupted; a finished one is left as it is.

  Args:
    config: the experiment, as configs/ have it.
    workdir: the run folder; made if it is not there.
    make_experiment: builds what the resolved config describes.
    heartbeat: seconds between lines that tell how far it is, as monitoring.Heartbeat takes them.
    profile: the first and the last step to trace, into the folder `profile`; None for none.

  Returns:
    What results.json holds.

  Raises:
    UserError: a field, a file or the data stand in the way, the loss became NaN, or it
      jumped (config.stop_on_spike).
    Interrupted: SIGTERM or SIGINT came; the state is saved.
  """
  config = resolve(config)
  folder = run_folder.RunFolder(workdir, writer=jax.process_index() == 0)
  with folder.locked(), contextlib.closing(folder):
    folder.refuse_unshared()
    if not distributed.same_as_first("config", config.to_json_best_effort):
      raise errors.UserError("--config: differs from the first process's; start the same command")
    folder.refuse_other_config(config, default.get_config())
    finished = folder.results()
    if finished is not None:
      log.info("%s: finished already; nothing to do", folder.path)
      return finished
    with stop_signals() as stop:
      experiment = make_experiment(config)
      steps = profile if folder.writer else None
      trace = monitoring.Trace(steps, folder.path / "profile", experiment.total_steps)
      with contextlib.closing(trace):
        return _train(experiment, folder, stop, trace, heartbeat if folder.writer else 0)


def _train(
  experiment: Experiment,
  folder: run_folder.RunFolder,
  stop: list[int],
  trace: monitoring.Trace,
  heartbeat_seconds: float | None,
) -> dict[str, Any]:
  # Callbacks, and the state before the first step.
  config = experiment.config
  splits, steps_per_epoch = experiment.splits, experiment.steps_per_epoch
  total_steps = experiment.total_steps
  controls = Controls(config)
  over_seeds = experiment.over_seeds
  update_control = jax.jit(over_seeds(controls.update, (0, None, 0)))
  keep_best = jax.jit(over_seeds(_keep_best), donate_argnums=2)
  penalty_of = jax.jit(
    over_seeds(lambda variables: optimizers.l2_penalty(variables["params"], config.loss.l2))
  )
  store = checkpoints.Checkpoints(folder.path)
  state = experiment.init(transfer.load(config.model.pretrained) if store.is_empty() else None)
  control = jax.jit(over_seeds(lambda seed: controls.init()))(experiment.seed_array())

  # Resume.
  rows: list[dict[str, Any]] = []
  step, seconds, epoch_seconds = 0, 0.0, 0.0
  best = state.variables()
  run = {"state": state, "control": control, "seconds": np.zeros(2), "best": best}
  if (found := store.restore_latest(run)) is not None:
    step, run = found
    state, control, best = run["state"], run["control"], run["best"]
    seconds, epoch_seconds = run["seconds"].tolist()
    ended = -(-step // steps_per_epoch) if step == total_steps else step // steps_per_epoch
    rows = folder.metrics_until(step, ended)
    if any(controls.best_epochs(control)):
      store.keep_best(step, best)
    log.info("Resuming %s at step %d, after epoch %d", folder.path, step, len(rows))
  state = compiled_steps.replicate(state)
  copy = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree))
  best = copy(compiled_steps.replicate(best))  # apart from `state`, which is donated

  # Programs.
  program = experiment.compile_steps(state)
  log.info(
    "%s on %s: %s parameters, %d training, %d validation and %d test examples, %d steps an epoch, "
    "%d × %s, %s",
    config.model.name,
    experiment.dataset.name,
    f"{sum(experiment.parameters):,}",
    len(splits.train),
    len(splits.validation),
    len(splits.test),
    steps_per_epoch,
    jax.device_count(),
    jax.devices()[0].device_kind,
    config.dtype,
  )

  def save(best_too: bool) -> None:
    if best_too:
      store.save_best(step, best)
    times = np.array([seconds, epoch_seconds])
    run = {"state": state, "control": control, "seconds": times, "best": best}
    store.save_latest(step, run)

  # Epochs. From here on the folder is this run's: what was wrong in the config would be known.
  folder.write_config(config)
  folder.write_dataset(experiment.describe_data())
  best_is_new = False
  heartbeat = monitoring.Heartbeat(
    heartbeat_seconds,
    step,
    total_steps,
    steps_per_epoch,
    config.batch_size * config.num_seeds,
    clock=lambda: time.monotonic() - program.compile_seconds,
  )
  memory_told = False
  curves = plots.LearningCurves(folder.path / "plots" / "learning_curves.png")
  while step < total_steps and not controls.stopped(control):
    epoch, done = divmod(step, steps_per_epoch)
    end = min((epoch + 1) * steps_per_epoch, total_steps)
    clock = _Clock(program, epoch_seconds)
    dispatches = _dispatches(end - step, program.steps_at_once)
    title = f"epoch {epoch + 1}/{config.num_epochs}"
    shards = program.source.train(experiment.order(epoch), config.batch_size, done, dispatches)
    with progress(title, done + end - step, "steps", done, lines=False) as advance:
      queue: deque[tuple[int, jax.Array]] = deque()
      for count, (shard, data) in zip(dispatches, shards, strict=True):
        trace.before(step, count, state)
        state, loss = program.train(count, state, shard, data)
        step += count
        trace.after(step, state)
        queue.append((count, loss))
        if len(queue) > _IN_FLIGHT:
          taken, loss = queue.popleft()
          advance(taken, loss=float(np.mean(loss)))
          heartbeat.advance(taken, float(np.mean(loss)))
          if not np.isfinite(loss).any():
            break
        if stop and jax.process_count() == 1 and step < end:
          break
    sums = jax.device_get(state.sums)
    if queue:
      heartbeat.advance(sum(taken for taken, _ in queue), float(np.mean(queue[-1][1])))
    _refuse_nan(sums, steps_per_epoch, folder)
    train_seconds = clock.seconds()
    if step < end:  # interrupted in mid-epoch
      epoch_seconds = train_seconds
      save(best_is_new)
      store.close()
      raise Interrupted(stop[0])
    monitoring.refuse_spike(
      [row["train_loss"] for row in rows],
      float(np.mean(sums.loss / sums.examples)),
      config.stop_on_spike,
      folder.path / "checkpoints",
    )

    # Validation, callbacks, records.
    variables = state.variables()
    values = {
      "train_loss": sums.loss / sums.examples,
      "train_accuracy": sums.correct / sums.examples,
    }
    if len(splits.validation):
      found = program.evaluate(variables, splits.validation)
      values |= {f"val_{name}": value for name, value in found.items()}
    if config.loss.l2:
      values["train_objective"] = values["train_loss"] + sums.penalty / sums.examples
      if len(splits.validation):
        values["val_objective"] = values["val_loss"] + np.asarray(penalty_of(variables))
    rate = np.asarray(experiment.schedule(step - 1)) * np.asarray(state.lr_scale)
    values["learning_rate"] = rate
    values = {name: np.asarray(value, np.float64) for name, value in values.items()}
    control = jax.device_get(update_control(control, epoch, values))
    state = state.replace(lr_scale=compiled_steps.replicate(controls.lr_scale(control)))
    if np.any(controls.improved(control)):
      best = keep_best(controls.improved(control), variables, best)
      best_is_new = True
    epoch_seconds = clock.seconds()
    row = results.epoch_row(step, epoch + 1, values, experiment.seeds)
    trained = (end - epoch * steps_per_epoch) * config.batch_size * config.num_seeds
    row["images_per_second"] = trained / train_seconds
    row["seconds"] = epoch_seconds
    rows.append(row)
    seconds, epoch_seconds = seconds + epoch_seconds, 0.0
    last = step == total_steps or controls.stopped(control)
    stopping = any_process(stop)
    folder.write_metrics(rows)  # before the checkpoint, so that it never speaks of a missing row
    if last or stopping or (epoch + 1) % config.checkpoint_every == 0:
      save(best_is_new)
      best_is_new = False
    folder.write_scalars(rows)
    if folder.writer:
      curves.draw(rows, f"{config.model.name} on {experiment.dataset.name}", at_once=last)
    log.info("%s", results.epoch_line(row, config.num_epochs))
    if not memory_told and (line := monitoring.memory_line(monitoring.memory())):
      log.info("memory: %s", line)
    memory_told = True
    if stopping and not last:
      store.close()
      raise Interrupted(stop[0] if stop else signal.SIGTERM)

  # The selected weights, and the test set, once.
  measured = {"test": program.evaluate(best, splits.test)}
  if config.tta:
    measured["test_tta"] = program.evaluate(best, splits.test, config.tta)
  if config.evaluate_train:
    measured["train"] = program.evaluate(best, splits.train)
  store.close()
  found = results.collect(experiment, rows, controls.best_epochs(control), measured)
  found["seconds_to_train"] = seconds
  found["compile_seconds"] = program.compile_seconds
  found["memory"] = monitoring.memory()
  folder.write_results(found)
  return found


class _Clock:
  """Seconds since it was made, plus those before, without the time spent compiling."""

  def __init__(self, program: compiled_steps.Programs, before: float):
    self._program = program
    self._start = time.monotonic() - before - program.compile_seconds

  def seconds(self) -> float:
    return time.monotonic() - self._start - self._program.compile_seconds


def _dispatches(steps: int, at_once: int) -> list[int]:
  """Numbers of steps that add up to `steps`, none above `at_once`."""
  whole, rest = divmod(steps, at_once)
  return [at_once] * whole + [rest] * (rest > 0)


def _keep_best(improved: jax.Array, new: PyTree, best: PyTree) -> PyTree:
  return jax.tree.map(lambda n, b: jnp.where(improved, n, b), new, best)


def _refuse_nan(sums: Sums, steps_per_epoch: int, folder: run_folder.RunFolder) -> None:
  bad = np.atleast_1d(sums.bad_step)
  if (bad >= 0).all():
    step = int(bad.min())
    raise errors.UserError(
      f"loss: became NaN or infinite at step {step + 1} (epoch {step // steps_per_epoch + 1}); "
      f"lower optimizer.learning_rate or set optimizer.clip_norm, with another workdir; the last "
      f"good checkpoint stays in {folder.path / 'checkpoints'}"
    )
