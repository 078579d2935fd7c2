"""The training program: what one step computes, how it runs on the devices, and the loop around it.

Read from the top: TrainState and the pure `train_step` and `eval_step`; then
`train_and_evaluate`, the loop, in named sections. How steps become compiled, parallel programs is
in programs.py.
"""

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import struct

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

PyTree = Any
_IN_FLIGHT = 4  # dispatches that may be queued before the host waits for the oldest


class Interrupted(Exception):
  """A signal asked the run to stop; everything is saved and the same command resumes."""

  def __init__(self, signum: int):
    super().__init__(signal.Signals(signum).name)
    self.signum = signum


# --- What one step computes ----------------------------------------------------------------------


class Sums(struct.PyTreeNode):
  """Sums over the training examples of the current epoch, on the device. Scalars."""

  loss: jax.Array
  penalty: jax.Array
  correct: jax.Array
  examples: jax.Array
  bad_step: jax.Array  # the first step of the run whose loss was not finite, or -1

  @classmethod
  def zero(cls) -> "Sums":
    zero = jnp.zeros((), jnp.float32)
    return cls(zero, zero, zero, zero, jnp.full((), -1, jnp.int32))

  def add(self, metrics: dict, step: jax.Array, first: jax.Array) -> "Sums":
    """Adds a step's metrics; `first` says that it is the first of its epoch."""
    examples = metrics["examples"]
    old = jax.tree.map(lambda total: jnp.where(first, 0.0, total), self)
    bad = (self.bad_step < 0) & ~jnp.isfinite(metrics["loss"])
    return Sums(
      loss=old.loss + metrics["loss"] * examples,
      penalty=old.penalty + metrics["penalty"] * examples,
      correct=old.correct + metrics["correct"],
      examples=old.examples + examples,
      bad_step=jnp.where(bad, step, self.bad_step),
    )


class TrainState(struct.PyTreeNode):
  """All that training changes; with several seeds every leaf has a leading axis of seeds."""

  step: jax.Array  # [] int32, steps taken
  params: PyTree
  batch_stats: PyTree
  opt_state: PyTree
  average: PyTree | None  # moving average of {'params', 'batch_stats'}, if config.ema_decay
  lr_scale: jax.Array  # [] float32, set by the plateau logic between epochs
  sums: Sums
  key: jax.Array  # [2] uint32, the seed's key data; constant

  def variables(self) -> dict[str, PyTree]:
    """What evaluation and checkpoints use: the moving average where there is one."""
    if self.average is not None:
      return self.average
    return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(
  config: ml_collections.ConfigDict,
  model: Any,
  tx: optax.GradientTransformation,
  seed: jax.Array,
  image_shape: tuple[int, int, int],
) -> TrainState:
  """The state before the first step: a function of `seed` [] int32 alone."""
  key = jax.random.key(seed)
  init_key = input_pipeline.purpose_key(key, input_pipeline.INIT, 0)
  variables = model.init(init_key, jnp.zeros((1, *image_shape)), train=False)
  params, batch_stats = variables["params"], variables.get("batch_stats", {})
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=tx.init(params),
    average={"params": params, "batch_stats": batch_stats} if config.ema_decay else None,
    lr_scale=jnp.ones((), jnp.float32),
    sums=Sums.zero(),
    key=jax.random.key_data(key),
  )


def make_train_step(
  config: ml_collections.ConfigDict,
  model: Any,
  tx: optax.GradientTransformation,
  axis_name: str | None = None,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
  """Returns train_step(state, batch) -> (state, metrics), a pure function.

  batch: 'image' [b, h, w, c] float32, 'target' [b, classes] float32 (rows sum to 1), 'label' [b].
  metrics: 'loss' (mean cross-entropy), 'penalty' (L2), 'correct' and 'examples' (counts), over the
  batches of all devices on `axis_name`, or over this one if that is None.
  """

  def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
    key = jax.random.wrap_key_data(state.key)
    dropout_key = input_pipeline.purpose_key(key, input_pipeline.DROPOUT, state.step)

    def objective(params):
      logits, updated = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        batch["image"],
        train=True,
        rngs={"dropout": dropout_key},
        mutable=["batch_stats"],
      )
      target = optax.smooth_labels(batch["target"], config.loss.label_smoothing)
      loss = optax.softmax_cross_entropy(logits, target).mean()
      penalty = optimizers.l2_penalty(params, config.loss.l2)
      return loss + penalty, (loss, penalty, logits, updated.get("batch_stats", {}))

    gradients, (loss, penalty, logits, batch_stats) = jax.grad(objective, has_aux=True)(
      state.params
    )
    correct = jnp.sum(jnp.argmax(logits, -1) == batch["label"]).astype(jnp.float32)
    examples = jnp.float32(len(logits))
    if axis_name:
      gradients, loss = jax.lax.pmean((gradients, loss), axis_name)
      correct, examples = jax.lax.psum((correct, examples), axis_name)
      if not config.model.sync_bn:  # each device has its own; the mean of them is kept
        batch_stats = jax.lax.pmean(batch_stats, axis_name)

    updates, opt_state = tx.update(
      gradients, state.opt_state, state.params, lr_scale=state.lr_scale
    )
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
      average = optimizers.ema_update(
        average, {"params": params, "batch_stats": batch_stats}, state.step, config.ema_decay
      )
    state = state.replace(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      average=average,
    )
    return state, {"loss": loss, "penalty": penalty, "correct": correct, "examples": examples}

  return train_step


def make_eval_step(
  model: Any, axis_name: str | None = None
) -> Callable[[dict[str, PyTree], dict], dict]:
  """Returns eval_step(variables, batch) -> sums, a pure function.

  batch: 'image' [b, h, w, c] float32, 'label' [b] int32, 'mask' [b] bool (False: padding).
  sums: 'loss' (cross-entropy), 'correct', 'top5' and 'examples' over the unmasked rows, of all
  devices on `axis_name`, or of this one if that is None.
  """

  def eval_step(variables: dict[str, PyTree], batch: dict) -> dict:
    logits = model.apply(variables, batch["image"], train=False)
    labels, mask = batch["label"], batch["mask"]
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=1)
    sums = {
      "loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels),
      "correct": jnp.argmax(logits, -1) == labels,
      "top5": jnp.sum(logits > of_label, axis=1) < 5,
      "examples": jnp.ones_like(labels),
    }
    sums = {name: jnp.sum(jnp.where(mask, v, 0.0)) for name, v in sums.items()}
    return jax.lax.psum(sums, axis_name) if axis_name else sums

  return eval_step


# --- The loop ------------------------------------------------------------------------------------


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
    folder.adopt_config(config)
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

  # Epochs.
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
    stopping = _any_process(stop)
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


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT in a list instead of dying; a second one of them does kill."""
  received: list[int] = []
  if threading.current_thread() is not threading.main_thread():
    yield received
    return

  def note(signum: int, _: Any) -> None:
    received.append(signum)
    signal.signal(signum, signal.SIG_DFL)

  before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield received
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler)


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


def _any_process(stop: list[int]) -> bool:
  """Whether any process was asked to stop, so that all stop after the same epoch."""
  if jax.process_count() == 1:
    return bool(stop)
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.array(len(stop))).any())
