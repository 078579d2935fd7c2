"""What one step computes: the state that training changes, and pure functions of it.

`train_step` and `eval_step` take one batch, need no device set-up and work the same under pmap
(`axis_name`), vmap (several seeds) and neither.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import struct

import input_pipeline
from cifar_jax.augment import test_time
from cifar_jax.optim import averages, optimizers
from cifar_jax.types import Variables
from models import transfer

PyTree = Any


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
  slow: PyTree | None  # Lookahead's {'params', 'batch_stats'}, if config.lookahead.every
  lr_scale: jax.Array  # [] float32, set by the plateau logic between epochs
  sums: Sums
  key: jax.Array  # [2] uint32, the seed's key data; constant
  proxy: PyTree | None = None  # proxy.ProxyState, if config.proxy.keep

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
  images: jax.Array,
  weights: Variables | None = None,
) -> TrainState:
  """The state before the first step: a function of `seed` [] int32 and of what it starts from.

  images: [n, h, w, c] float32, what the model is initialised with; see models/__init__.py.
  weights: of a network trained before, as transfer.load returns them.
  """
  key = jax.random.key(seed)
  init_key = input_pipeline.purpose_key(key, input_pipeline.INIT, 0)
  variables = model.init(init_key, images, train=False)
  if weights is not None:
    variables = transfer.insert(variables, weights)
  params, batch_stats = variables["params"], variables.get("batch_stats", {})
  both = {"params": params, "batch_stats": batch_stats}
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=tx.init(params),
    average=both if config.ema_decay else None,
    slow=both if config.lookahead.every else None,
    lr_scale=jnp.ones((), jnp.float32),
    sums=Sums.zero(),
    key=jax.random.key_data(key),
  )


def make_train_step(
  config: ml_collections.ConfigDict,
  model: Any,
  tx: optax.GradientTransformation,
  axis_name: str | None = None,
  total_steps: int = 0,
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
  """Returns train_step(state, batch) -> (state, metrics), a pure function.

  total_steps: of the run, which Lookahead has to know.

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
    slow = state.slow
    if slow is not None:
      fast = {"params": params, "batch_stats": batch_stats}
      slow, fast = averages.update_lookahead(
        slow, fast, state.step + 1, total_steps, **config.lookahead
      )
      params, batch_stats = fast["params"], fast["batch_stats"]
    average = state.average
    if average is not None:
      average = averages.update_ema(
        average, {"params": params, "batch_stats": batch_stats}, state.step, config.ema_decay
      )
    state = state.replace(
      step=state.step + 1,
      params=params,
      batch_stats=batch_stats,
      opt_state=opt_state,
      average=average,
      slow=slow,
    )
    return state, {"loss": loss, "penalty": penalty, "correct": correct, "examples": examples}

  return train_step


def make_eval_step(
  model: Any, axis_name: str | None = None
) -> Callable[[dict[str, PyTree], dict], dict]:
  """Returns eval_step(variables, batch, kind='') -> sums, a pure function.

  kind: of test-time augmentation, one of test_time.KINDS, or '' for none.
  batch: 'image' [b, h, w, c] float32, 'label' [b] int32, 'mask' [b] bool (False: padding).
  sums: 'loss' (cross-entropy), 'correct', 'top5' and 'examples' over the unmasked rows, of all
  devices on `axis_name`, or of this one if that is None.
  """

  def eval_step(variables: dict[str, PyTree], batch: dict, kind: str = "") -> dict:
    apply = functools.partial(model.apply, variables, train=False)
    logits = (
      test_time.predict_logits(apply, batch["image"], kind) if kind else apply(batch["image"])
    )
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
