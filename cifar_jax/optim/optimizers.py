"""Optimizers, by name: optax chains that turn a gradient into an update of the parameters.

Every optimizer consists of, in this order: clipping by global norm, a method (`METHODS`), decoupled
weight decay, multipliers of the learning rate by parameter, and the part of a method that no
learning rate scales (`UNSCALED`). To add a method, write it below and add it to `METHODS`.

Where Keras, PyTorch and optax differ, these optimizers follow Keras, because the reports used it:

- sgd, rmsprop: the learning rate is inside the velocity, v = momentum * v - lr * g, as in Keras and
  in Sutskever et al. 2013. PyTorch and optax.sgd multiply by the rate outside. The two are the same
  at a constant rate. When the rate changes, Keras' form needs no momentum correction (Goyal et al.
  2017, section 3). `sgd` has PyTorch's form too, with lr_in_velocity=False.
- adam, adamw: eps is added to the square root of the second moment before its bias is corrected
  (Kingma & Ba 2015, end of section 2: "epsilon hat"). PyTorch and optax add eps afterwards.
- rmsprop: eps is inside the square root, as in Keras 3 and optax. Keras up to 2.2 and PyTorch add
  it outside, where 1e-7 has the effect of 1e-14 inside. `rmsprop` has that form too, with
  eps_in_root=False.
- eps is 1e-7 by default, as in Keras; PyTorch and optax use 1e-8.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cifar_jax import errors
from cifar_jax.optim.muon import muon, muon_sgd, normalise_kernels
from cifar_jax.optim.parameter_rules import label_frozen, match_rules
from cifar_jax.optim.schedule_arguments import round_steps
from cifar_jax.optim.schedules import Schedule
from cifar_jax.optim.transformations import check_decay, decay_kernels, descend, scale_by_adam
from cifar_jax.registry import call_named, check_number
from cifar_jax.types import PyTree


class OptimizerState(NamedTuple):
  """Number of updates so far (int32 of shape []), and the state of clipping, method and decay."""

  step: jax.Array
  method: optax.OptState


class _CommonFields(NamedTuple):
  """Fields of config.optimizer that every method has; `create` explains them."""

  weight_decay: float = 0.0
  clip_norm: float = 0.0
  freeze: tuple[str, ...] = ()
  freeze_after: tuple[tuple[str, float], ...] = ()
  lr_multipliers: tuple[tuple[str, float], ...] = ()


def create(
  config_optimizer: Mapping[str, Any],
  schedule: Schedule,
  steps_per_epoch: float = 1,
  more_frozen: Mapping[str, Iterable[str]] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Return the optimizer that a config describes, by these fields:

    name            one of `METHODS`; the method's arguments are fields too
    clip_norm       the global norm that larger gradients are scaled down to; 0 does not clip
    weight_decay    decoupled (Loshchilov & Hutter 2019): w -= lr * weight_decay * w, apart from the
                    gradient and its moments, on kernels only, never on biases or normalisation
                    scales. PyTorch's SGD(weight_decay=d) is `l2_penalty` with d / 2
    freeze          patterns (re.search) of the paths of parameters that never change
    freeze_after    (pattern, epochs) rules; parameters stop changing after that many epochs
    lr_multipliers  (pattern, multiplier) rules of the learning rate, which also scale the decoupled
                    weight decay. `l2_penalty` says how rules match
    learning_rate   ignored, because `schedule` includes it

  Args:
    config_optimizer: the fields; None stands for a field's default.
    schedule: maps the step to the learning rate.
    steps_per_epoch: updates in one epoch, for `freeze_after`.
    more_frozen: further patterns of parameters that never change, by the field that holds them.

  Returns:
    A transformation whose `update(gradients, state, params, lr_scale=1.0)` needs params; lr_scale,
    of shape [], multiplies the schedule's rate (the scale of a plateau). Both functions may be
    vmapped over a leading axis of seeds. `init` raises UserError if a pattern matches no parameter.

  Raises:
    UserError: a name or argument is unknown, or a value is out of range.
  """
  method_config, common = _split_config(config_optimizer)
  frozen = {"optimizer.freeze": tuple(common.freeze)}
  frozen |= {field: tuple(patterns) for field, patterns in (more_frozen or {}).items()}
  method = _chain_method(method_config, common, frozen)

  def init(params: PyTree) -> OptimizerState:
    first_step = jnp.zeros([], jnp.int32)
    _multiply_rates(params, common)  # raises if a pattern is wrong, like the next line
    _freeze_after(params, first_step, common, steps_per_epoch)
    return OptimizerState(first_step, method.init(params))

  def update(
    gradients: PyTree,
    state: OptimizerState,
    params: PyTree,
    *,
    lr_scale: jax.typing.ArrayLike = 1.0,
  ) -> tuple[PyTree, OptimizerState]:
    learning_rate = schedule(state.step) * lr_scale
    updates, method_state = method.update(
      gradients, state.method, params, learning_rate=learning_rate
    )
    updates = _multiply_rates(updates, common)
    if add_unscaled := UNSCALED.get(method_config["name"]):
      updates = add_unscaled(updates, params, label_frozen(frozen, params))
    updates = _freeze_after(updates, state.step, common, steps_per_epoch)
    return updates, OptimizerState(optax.safe_increment(state.step), method_state)

  return optax.GradientTransformationExtraArgs(init, update)


def _split_config(config_optimizer: Mapping[str, Any]) -> tuple[dict[str, Any], _CommonFields]:
  """Return the fields of the method, `name` included, and those that all methods share."""
  method_config = dict(config_optimizer)
  method_config.pop("learning_rate", None)
  values = {field: method_config.pop(field, None) for field in _CommonFields._fields}
  if values["weight_decay"] is None and method_config.get("name") == "adamw":
    values["weight_decay"] = 0.004  # Keras' default
  common = _CommonFields(**{field: value for field, value in values.items() if value is not None})
  check_number("optimizer.clip_norm", common.clip_norm, "a number >= 0", lambda x: x >= 0)
  check_number("optimizer.weight_decay", common.weight_decay, "a number >= 0", lambda x: x >= 0)
  return method_config, common


def _chain_method(
  method_config: Mapping[str, Any],
  common: _CommonFields,
  frozen: Mapping[str, tuple[str, ...]],
) -> optax.GradientTransformationExtraArgs:
  """Return the chain of clipping, method, decay and freezing; arrays in `common` may be traced."""
  transforms = [
    call_named("optimizer", METHODS, method_config, common=_CommonFields._fields),
  ]
  if common.clip_norm:
    transforms.insert(0, optax.clip_by_global_norm(common.clip_norm))
  if isinstance(common.weight_decay, jax.Array) or common.weight_decay:
    transforms.append(decay_kernels(common.weight_decay))
  method = optax.chain(*transforms)
  if not any(frozen.values()):
    return method
  parts = {"trained": method, "frozen": optax.set_to_zero()}
  return optax.partition(parts, lambda params: label_frozen(frozen, params))


def _multiply_rates(updates: PyTree, common: _CommonFields) -> PyTree:
  """Return the updates scaled by `lr_multipliers`."""
  multipliers = match_rules("optimizer.lr_multipliers", common.lr_multipliers, updates)
  leaves, treedef = jax.tree.flatten(updates)
  for i, multiplier in enumerate(multipliers):
    if multiplier is not None:
      leaves[i] *= multiplier
  return jax.tree.unflatten(treedef, leaves)


def _freeze_after(
  updates: PyTree, step: jax.Array, common: _CommonFields, steps_per_epoch: float
) -> PyTree:
  """Return the updates, with zeros for parameters whose epochs of `freeze_after` are over."""
  epochs = match_rules("optimizer.freeze_after", common.freeze_after, updates)
  leaves, treedef = jax.tree.flatten(updates)
  for i, last_epoch in enumerate(epochs):
    if last_epoch is not None:
      leaves[i] = jnp.where(step < round_steps(last_epoch, steps_per_epoch), leaves[i], 0)
  return jax.tree.unflatten(treedef, leaves)


def sgd(
  momentum: float = 0.0, nesterov: bool = False, lr_in_velocity: bool = True
) -> optax.GradientTransformation:
  """Return Keras' SGD: v = momentum * v - lr * g, then w += v.

  Args:
    momentum: in [0, 1).
    nesterov: w += momentum * v - lr * g instead; needs momentum > 0.
    lr_in_velocity: False gives PyTorch's SGD: v = momentum * v + g, then w -= lr * v, or with
      nesterov w -= lr * (momentum * v + g).

  Raises:
    UserError: an argument is out of range.
  """
  check_decay("momentum", momentum)
  if not isinstance(momentum, jax.Array) and momentum == 0:
    if nesterov:
      raise errors.UserError(
        "optimizer.nesterov: needs a momentum; set optimizer.momentum above 0, such as 0.9"
      )
    return descend()
  velocity = optax.trace(momentum, nesterov)
  return optax.chain(*((descend(), velocity) if lr_in_velocity else (velocity, descend())))


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-7) -> optax.GradientTransformation:
  """Return Keras' Adam (Kingma & Ba 2015); with decoupled weight decay it is AdamW.

  Args:
    b1, b2: in [0, 1), the decay of the first and of the second moment.
    eps: > 0, added to the root of the biased second moment.

  Raises:
    UserError: an argument is out of range.
  """
  return optax.chain(scale_by_adam(b1, b2, eps), descend())


def rmsprop(
  rho: float = 0.9, momentum: float = 0.0, eps: float = 1e-7, eps_in_root: bool = True
) -> optax.GradientTransformation:
  """Return Keras' RMSprop (Hinton 2012): the step is lr * g / sqrt(second moment + eps).

  Args:
    rho: in [0, 1), the decay of the second moment.
    momentum: in [0, 1), applied to the steps.
    eps: > 0.
    eps_in_root: False gives the step of Keras up to 2.2: lr * g / (sqrt(second moment) + eps).

  Raises:
    UserError: an argument is out of range.
  """
  check_decay("rho", rho)
  check_decay("momentum", momentum)
  check_number("optimizer.eps", eps, "a number > 0", lambda x: x > 0)
  direction = optax.chain(optax.scale_by_rms(rho, eps, eps_in_sqrt=eps_in_root), descend())
  if not isinstance(momentum, jax.Array) and momentum == 0:
    return direction
  return optax.chain(direction, optax.trace(momentum))


METHODS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "adam": adam,
  "adamw": adam,
  "muon": muon,
  "muon_sgd": muon_sgd,
  "rmsprop": rmsprop,
  "sgd": sgd,
}
# By method: returns updates with the part added that no learning rate scales. Its arguments are
# updates, params, and the labels of `label_frozen`.
UNSCALED: dict[str, Callable[[PyTree, PyTree, PyTree], PyTree]] = {"muon_sgd": normalise_kernels}


def l2_penalty(params: PyTree, rules: Iterable[tuple[str, float]]) -> jax.Array:
  """Return Keras' kernel_regularizer=l2(c): the sum over parameters of coefficient * sum(w ** 2).

  The first rule whose pattern matches (re.search) a parameter's path, such as
  'ResNetBlock_0/Conv_1/kernel', sets its coefficient; without a match the coefficient is 0. SGD's
  weight_decay in PyTorch, which adds weight_decay * w to the gradient, is twice the coefficient.

  Args:
    params: a tree of parameters.
    rules: (regular expression, coefficient >= 0) pairs.

  Returns:
    float32 of shape [].

  Raises:
    UserError: a rule is not such a pair, or is not the first match of any parameter.
  """
  coefficients = match_rules("loss.l2", rules, params)
  penalty = jnp.zeros([], jnp.float32)
  for coefficient, leaf in zip(coefficients, jax.tree.leaves(params), strict=True):
    if coefficient is not None:
      penalty += coefficient * jnp.sum(jnp.square(leaf), dtype=jnp.float32)
  return penalty
