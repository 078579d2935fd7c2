"""One step: the state that training changes, and pure functions of it.

`train_step` and `eval_step` take one batch and need no device set-up. They work the same under pmap
(`axis_name`), under vmap (several seeds) and alone.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import struct

from cifar_jax.augment import test_time
from cifar_jax.optim import averages
from cifar_jax.training import gradients, rng
from cifar_jax.types import Array, Batch, Metrics, Params, PyTree, Variables


class Sums(struct.PyTreeNode):
  """Sums over the training examples of the current epoch: scalars on the device."""

  loss: jax.Array
  penalty: jax.Array
  correct: jax.Array
  top5: jax.Array
  examples: jax.Array
  bad_step: jax.Array  # the first step of the run whose loss was not finite, or -1

  @classmethod
  def zero(cls) -> "Sums":
    """Return the sums before the first step."""
    zero = jnp.zeros((), jnp.float32)
    return cls(zero, zero, zero, zero, zero, jnp.full((), -1, jnp.int32))

  def add(self, metrics: Metrics, step: jax.Array, is_first: jax.Array) -> "Sums":
    """Return the sums with a step's metrics added; the first step of an epoch resets them."""
    examples = metrics["examples"]
    previous = jax.tree.map(lambda total: jnp.where(is_first, 0.0, total), self)
    is_bad = (self.bad_step < 0) & ~jnp.isfinite(metrics["loss"])
    return Sums(
      loss=previous.loss + metrics["loss"] * examples,
      penalty=previous.penalty + metrics["penalty"] * examples,
      correct=previous.correct + metrics["correct"],
      top5=previous.top5 + metrics["top5"],
      examples=previous.examples + examples,
      bad_step=jnp.where(is_bad, step, self.bad_step),
    )


class TrainState(struct.PyTreeNode):
  """Everything that training changes; with several seeds every leaf has a leading axis of seeds."""

  step: jax.Array  # [] int32, steps taken
  params: Params
  batch_stats: Params
  opt_state: PyTree
  average: Variables | None  # moving average of the variables, if config.ema_decay
  slow: Variables | None  # Lookahead's slow variables, if config.lookahead.every
  lr_scale: jax.Array  # [] float32, set by the plateau logic between epochs
  sums: Sums
  key: jax.Array  # [2] uint32, the seed's key data; constant
  proxy: PyTree = None  # hard_examples.ProxyState, if config.proxy.keep

  def variables(self) -> Variables:
    """Return the variables to evaluate and select: the moving average where there is one."""
    if self.average is not None:
      return self.average
    return {"params": self.params, "batch_stats": self.batch_stats}


# train_step(state, batch) -> (state, metrics)
TrainStep: TypeAlias = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


class EvalStep(Protocol):
  """eval_step(variables, batch, tta) -> sums over the batch."""

  def __call__(self, variables: Variables, batch: Batch, tta: str = "") -> Metrics: ...


def init_state(
  config: ml_collections.ConfigDict,
  model: nn.Module,
  tx: optax.GradientTransformation,
  seed: jax.Array,
  images: jax.Array,
  insert_weights: Callable[[Variables], Variables] | None = None,
) -> TrainState:
  """Return the state before the first step, given `seed` [] int32 and initial weights.

  Args:
    images: [n, h, w, c] float32, what the model is initialised with; see models/__init__.py.
    insert_weights: replaces initial variables with those of a trained network; None keeps them.
  """
  key = jax.random.key(seed)
  variables: Variables = model.init(rng.purpose_key(key, rng.INIT, 0), images, train=False)
  if insert_weights is not None:
    variables = insert_weights(variables)
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


def dropout_key(state: TrainState) -> jax.Array:
  """Return the key of this step's dropout."""
  return rng.purpose_key(jax.random.wrap_key_data(state.key), rng.DROPOUT, state.step)


def make_train_step(
  config: ml_collections.ConfigDict,
  model: nn.Module,
  tx: optax.GradientTransformationExtraArgs,
  axis_name: str | None = None,
  total_steps: int = 0,
) -> TrainStep:
  """Return train_step(state, batch) -> (state, metrics), a pure function.

  Args:
    total_steps: training steps in the run, which Lookahead needs.

  A batch has 'image' [b, h, w, c] float32, 'target' [b, classes] float32 (rows sum to 1) and
  'label' [b]. The metrics are 'loss' (mean cross-entropy), 'penalty' (L2), 'correct', 'top5' and
  'examples' (counts), over the batches of all devices on `axis_name`, or over this batch if that is
  None.
  """

  differentiate = gradients.make_gradient(config, model)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    grads, (loss, penalty, logits, batch_stats) = differentiate(
      state.params, state.batch_stats, batch, dropout_key(state)
    )
    rank = rank_of_label(logits, batch["label"])
    counts = {
      "correct": jnp.sum(rank == 0).astype(jnp.float32),
      "top5": jnp.sum(rank < 5).astype(jnp.float32),
    }
    num_devices = jax.lax.axis_size(axis_name) if axis_name else 1
    if num_devices > 1:  # on one device XLA:CPU would only copy the arrays
      grads, loss = jax.lax.pmean((grads, loss), axis_name)
      counts = jax.lax.psum(counts, axis_name)
      if not config.model.sync_bn:  # each device has different statistics; keep their mean
        batch_stats = jax.lax.pmean(batch_stats, axis_name)

    updates, opt_state = tx.update(grads, state.opt_state, state.params, lr_scale=state.lr_scale)
    state = state.replace(
      params=optax.apply_updates(state.params, updates),
      batch_stats=batch_stats,
      opt_state=opt_state,
    )
    state = _update_averages(config, state, total_steps)
    counts["examples"] = jnp.float32(len(logits) * num_devices)
    metrics = {"loss": loss, "penalty": penalty, **counts}
    return state.replace(step=state.step + 1), metrics

  return train_step


def _update_averages(
  config: ml_collections.ConfigDict, state: TrainState, total_steps: int
) -> TrainState:
  """Return the state with Lookahead and the moving average updated by the new weights."""
  slow = state.slow
  if slow is not None:
    fast = {"params": state.params, "batch_stats": state.batch_stats}
    slow, fast = averages.update_lookahead(
      slow, fast, state.step + 1, total_steps, **config.lookahead
    )
    state = state.replace(params=fast["params"], batch_stats=fast["batch_stats"], slow=slow)
  if state.average is not None:
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    average = averages.update_ema(state.average, variables, state.step, config.ema_decay)
    state = state.replace(average=average)
  return state


def rank_of_label(logits: Array, labels: Array) -> jax.Array:
  """Return the number of classes ranked before the correct one: [b] int32.

  Among equal logits the class with the lower number comes first. A row with a logit that is not
  finite gets the largest int32.

  Args:
    logits: [b, classes].
    labels: [b] integers.
  """
  logits, labels = jnp.asarray(logits), jnp.asarray(labels)
  of_label = jnp.take_along_axis(logits, labels[:, None], axis=1)
  is_lower = jnp.arange(logits.shape[1]) < labels[:, None]
  before = (logits > of_label) | ((logits == of_label) & is_lower)
  is_finite = jnp.isfinite(logits).all(axis=1)
  return jnp.where(is_finite, jnp.sum(before, axis=1), jnp.iinfo(jnp.int32).max)


def make_eval_step(model: nn.Module, axis_name: str | None = None) -> EvalStep:
  """Return eval_step(variables, batch, tta='') -> sums, a pure function.

  `tta` is a kind of test-time augmentation, one of test_time.KINDS, or '' for none. A batch has
  'image' [b, h, w, c] float32, 'label' [b] int32 and 'mask' [b] bool (False: padding). The sums are
  'loss' (cross-entropy), 'correct', 'top5' and 'examples' over the unmasked rows of all devices on
  `axis_name`, or of this device if that is None.
  """

  def eval_step(variables: Variables, batch: Batch, tta: str = "") -> Metrics:
    apply: Callable[..., Any] = functools.partial(model.apply, variables, train=False)
    logits: jax.Array = (
      test_time.predict_logits(apply, batch["image"], tta) if tta else apply(batch["image"])
    )
    labels, mask = batch["label"], batch["mask"]
    rank = rank_of_label(logits, labels)
    sums = {
      "loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels),
      "correct": rank == 0,
      "top5": rank < 5,
      "examples": jnp.ones_like(labels),
    }
    sums = {name: jnp.sum(jnp.where(mask, value, 0.0)) for name, value in sums.items()}
    return jax.lax.psum(sums, axis_name) if axis_name else sums

  return eval_step
