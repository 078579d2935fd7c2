"""The training program, from a config to a run folder: `train_and_evaluate`, in named sections.

What one step computes (`TrainState`, `make_train_step`, `make_eval_step`) is in steps.py, and how
steps become compiled, parallel programs in programs.py.
"""

import contextlib
import signal
import time
from collections import deque
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import checkpoints
import errors
import input_pipeline
import models
import optimizers
import programs
import results
import run_folder
import schedules
from analysis import plots
from configs import check
from console import log, progress
from controls import Controls
from interruption import Interrupted, any_process, stop_signals
from steps import Sums, TrainState, init_state, make_eval_step, make_train_step

PyTree = Any
_IN_FLIGHT = 4  # dispatches that may be queued before the host waits for the oldest


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Fills in what depends on the machine ('auto'), after checking every field."""
  check.check(config)
  config = config.copy_and_resolve_references()
  if config.dtype == "auto":
    config.dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
  if config.batch_size % jax.device_count():
    raise errors.UserError(
      f"batch_size: {config.batch_size} does not divide over {jax.device_count()} devices; "
      f"take a multiple of {jax.device_count()}"
    )
  return config


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Trains as `config` says, in the run folder `workdir`, and tests the selected weights once.

  A folder with an unfinished run of the same config is resumed, bit for bit as if it had never
  been interrupted; a finished one is left as it is.

  Returns:
    What results.json holds.

  Raises:
    UserError: a field, a file or the data stand in the way, or the loss became NaN.
    Interrupted: SIGTERM or SIGINT came; the state is saved.
  """
  config = resolve(config)
  folder = run_folder.RunFolder(workdir, writer=jax.process_index() == 0)
  with folder.locked(), contextlib.closing(folder):
    folder.refuse_other_config(config)
    finished = folder.results()
    if finished is not None:
      log.info("%s: finished already; nothing to do", folder.path)
      return finished
    with stop_signals() as stop:
      return _train(config, folder, stop)


def _train(
  config: ml_collections.ConfigDict, folder: run_folder.RunFolder, stop: list[int]
) -> dict[str, Any]:
  # Data.
  dataset = input_pipeline.load(config)
  splits = input_pipeline.make_splits(dataset, config.data)
  stages = input_pipeline.training_stages(dataset, splits, config.data)
  steps_per_epoch = len(stages[0]) // config.batch_size
  if not steps_per_epoch:
    raise errors.UserError(
      f"batch_size: {config.batch_size} is more than the {len(stages[0])} training examples"
    )
  source = input_pipeline.make_source(dataset, config.data, programs.replicate)
  streamed = isinstance(source, input_pipeline.StreamedSource)
  if streamed and config.num_seeds > 1:
    raise errors.UserError(
      "num_seeds: several seeds need the data set on the device; raise data.resident_bytes"
    )

  # Model, optimiser, callbacks, and the state before the first step.
  model = models.create(
    config.model,
    len(dataset.class_names),
    dtype=jnp.dtype(config.dtype),
    axis_name=programs.AXIS,
  )
  schedule = schedules.create(
    config.schedule,
    config.optimizer.learning_rate,
    steps_per_epoch,
    config.num_epochs * steps_per_epoch,
  )
  tx = optimizers.create(config.optimizer, schedule)
  controls = Controls(config)
  preprocess = input_pipeline.make_preprocess(config, dataset, steps_per_epoch)

  def start(seed: jax.Array) -> tuple[TrainState, PyTree]:
    shape = dataset.train.images.shape[1:]
    return init_state(config, model, tx, seed, shape), controls.init()

  seeds = list(range(config.seed, config.seed + config.num_seeds))
  over_seeds = jax.vmap if config.num_seeds > 1 else lambda f, *_: f
  seed_array = jnp.array(seeds if config.num_seeds > 1 else config.seed)
  state, control = jax.jit(over_seeds(start))(seed_array)
  order_of = over_seeds(input_pipeline.epoch_order, (0, None, None))
  update_control = jax.jit(over_seeds(controls.update, (0, None, 0)))
  keep_best = jax.jit(over_seeds(_keep_best), donate_argnums=2)
  penalty_of = jax.jit(
    over_seeds(lambda variables: optimizers.l2_penalty(variables["params"], config.loss.l2))
  )
  jax.eval_shape(penalty_of, state.variables())  # patterns that match nothing are told of now
  keys = over_seeds(jax.random.key)(seed_array)
  parameters = models.count_parameters(jax.eval_shape(start, seeds[0])[0].variables())

  # Resume.
  store = checkpoints.Checkpoints(folder.path)
  rows: list[dict[str, Any]] = []
  step, seconds, epoch_seconds = 0, 0.0, 0.0
  best = None
  run = {"state": state, "control": control, "seconds": np.zeros(2)}
  if (found := store.restore_latest(run)) is not None:
    step, run = found
    state, control = run["state"], run["control"]
    seconds, epoch_seconds = run["seconds"].tolist()
    store.rewind(step)
    rows = folder.metrics()[: step // steps_per_epoch]
    if (kept := store.restore_best(state.variables())) is not None:
      best = programs.replicate(kept[1])
    log.info("Resuming %s at step %d, after epoch %d", folder.path, step, len(rows))
  state = programs.replicate(state)
  if best is None:
    best = jax.tree.map(jnp.copy, state.variables())

  # Programs.
  on_cpu = jax.default_backend() == "cpu"
  steps_at_once = config.steps_per_dispatch or (1 if on_cpu or streamed else steps_per_epoch)
  largest = max(len(splits.validation), len(splits.test))
  program = programs.Programs(
    config,
    make_train_step(config, model, tx, programs.AXIS),
    make_eval_step(model, programs.AXIS),
    preprocess,
    source,
    steps_per_epoch,
    evaluation_batches=1 if on_cpu else -(-largest // config.eval_batch_size),
  )
  log.info(
    "%s on %s: %s parameters, %d training, %d validation and %d test examples, %d steps an epoch, "
    "%d × %s, %s",
    config.model.name,
    dataset.name,
    f"{sum(parameters):,}",
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
    store.save_latest(step, {"state": state, "control": control, "seconds": times})

  # Epochs. From here on the folder is this run's: what was wrong in the config would be known.
  folder.write_config(config)
  best_is_new = False
  curves = plots.LearningCurves(folder.path / "plots" / "learning_curves.png")
  while step < config.num_epochs * steps_per_epoch and not controls.stopped(control):
    epoch, done = divmod(step, steps_per_epoch)
    clock = _Clock(program, epoch_seconds)
    order = order_of(keys, epoch, stages[epoch * len(stages) // config.num_epochs])
    dispatches = _dispatches(steps_per_epoch - done, steps_at_once)
    title = f"epoch {epoch + 1}/{config.num_epochs}"
    shards = source.train(order, config.batch_size, done, dispatches)
    with progress(title, steps_per_epoch, "steps", done) as advance:
      queue: deque[tuple[int, jax.Array]] = deque()
      for count, (shard, data) in zip(dispatches, shards, strict=True):
        state, loss = program.train(count, state, shard, data)
        step += count
        queue.append((count, loss))
        if len(queue) > _IN_FLIGHT:
          taken, loss = queue.popleft()
          advance(taken, loss=float(np.mean(loss)))
          if not np.isfinite(loss).any():
            break
        if stop and jax.process_count() == 1 and step % steps_per_epoch:
          break
    sums = jax.device_get(state.sums)
    _refuse_nan(sums, steps_per_epoch, folder)
    train_seconds = clock.seconds()
    if step % steps_per_epoch:  # interrupted in mid-epoch
      epoch_seconds = train_seconds
      save(best_is_new)
      store.close()
      raise Interrupted(stop[0])

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
    rate = np.asarray(schedule(step - 1)) * np.asarray(state.lr_scale)
    values["learning_rate"] = rate
    values = {name: np.asarray(value, np.float64) for name, value in values.items()}
    control = jax.device_get(update_control(control, epoch, values))
    state = state.replace(lr_scale=programs.replicate(controls.lr_scale(control)))
    if np.any(controls.improved(control)):
      best = keep_best(controls.improved(control), variables, best)
      best_is_new = True
    epoch_seconds = clock.seconds()
    row = results.epoch_row(step, epoch + 1, values, seeds)
    row["images_per_second"] = steps_per_epoch * config.batch_size * len(seeds) / train_seconds
    row["seconds"] = epoch_seconds
    rows.append(row)
    seconds, epoch_seconds = seconds + epoch_seconds, 0.0
    last = step == config.num_epochs * steps_per_epoch or controls.stopped(control)
    stopping = any_process(stop)
    folder.write_metrics(rows)  # before the checkpoint, so that it never speaks of a missing row
    if last or stopping or (epoch + 1) % config.checkpoint_every == 0:
      save(best_is_new)
      best_is_new = False
    folder.write_scalars(row)
    if folder.writer:
      curves.draw(rows, f"{config.model.name} on {dataset.name}", at_once=last)
    log.info("%s", results.epoch_line(row, config.num_epochs))
    if stopping and not last:
      store.close()
      raise Interrupted(stop[0] if stop else signal.SIGTERM)

  # The selected weights, and the test set, once.
  measured = {"test": program.evaluate(best, splits.test)}
  if config.evaluate_train:
    measured["train"] = program.evaluate(best, splits.train)
  store.close()
  found = results.collect(
    config, dataset, splits, parameters, rows, controls.best_epochs(control), measured
  )
  found["seconds_to_train"] = seconds
  found["compile_seconds"] = program.compile_seconds
  folder.write_results(found)
  return found


class _Clock:
  """Seconds since it was made, plus those before, without the time spent compiling."""

  def __init__(self, program: programs.Programs, before: float):
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
