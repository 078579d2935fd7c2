"""Optimizers, by name: optax chains that turn a gradient into an update of the parameters.

Every optimizer is, in this order: clipping by global norm, a method (`METHODS`), decoupled weight
decay, multipliers of the learning rate by parameter. To add a method, write it below and name it in
`METHODS`.

Where Keras, PyTorch and optax differ, Keras is followed, so that the reports come out as they were:

- sgd, rmsprop: the learning rate is inside the velocity, v = momentum * v - lr * g, as in Keras and
  in Sutskever et al. 2013. PyTorch and optax.sgd multiply by the rate outside. The two are the same
  at a constant rate; when it changes, this one needs no momentum correction (Goyal et al. 2017,
  section 3). `sgd` has PyTorch's form too, by lr_in_velocity=False.
- adam, adamw: eps is added to the square root of the second moment before its bias is corrected
  (Kingma & Ba 2015, end of section 2: "epsilon hat"); PyTorch and optax add it afterwards.
- rmsprop: eps is inside the square root, as in Keras and optax; PyTorch has it outside.
- eps is 1e-7 by default, as in Keras; PyTorch and optax have 1e-8.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cifar_jax import errors
from cifar_jax.optim.muon import muon_sgd
from cifar_jax.optim.schedules import Schedule
from cifar_jax.registry import call_named, check_number

PyTree = Any

_COMMON = ("weight_decay", "clip_norm", "freeze", "freeze_after", "lr_multipliers")


class OptimizerState(NamedTuple):
  """step: updates made so far, int32 of shape []; method: the state of clipping, method, decay."""

  step: jax.Array
  method: optax.OptState


def create(
  config_optimizer: Mapping[str, Any], schedule: Schedule, steps_per_epoch: float = 1
) -> optax.GradientTransformationExtraArgs:
  """Builds the optimizer a config describes.

  Args:
    config_optimizer: `name`, one of `METHODS`, and the method's own arguments; `clip_norm`: the
      global norm that gradients are scaled down to, 0 or None for no clipping; `weight_decay`: see
      below; `freeze`: patterns (re.search) of the paths of parameters that stay as they are;
      `lr_multipliers`: (pattern, multiplier) rules, read as those of `l2_penalty`, of the learning
      rate, decoupled weight decay included; `freeze_after`: (pattern, epochs) rules for parameters
      that stay as they are after so many epochs; `learning_rate` is ignored, for the schedule holds
      it. None stands for the default.
    schedule: from the step to the learning rate.
    steps_per_epoch: updates in one epoch, for `freeze_after`.

  Returns:
    A transformation whose `update(gradients, state, params, lr_scale=1.0)` needs params; lr_scale,
    of shape [], multiplies the schedule's rate (the scale of a plateau). It may be vmapped, state
    and all, over a leading axis of seeds.

  `weight_decay` is decoupled (Loshchilov & Hutter 2019): w -= lr * weight_decay * w, apart from the
  gradient and its moments, on kernels only, never on biases or normalisation scales. What PyTorch's
  SGD calls weight_decay goes through the gradient: that is an L2 penalty in the loss, `l2_penalty`,
  with half the coefficient.

  Raises:
    UserError: for an unknown name or argument, or a value out of range; it names the field.
  """
  config = dict(config_optimizer)
  config.pop("learning_rate", None)
  freeze = config.pop("freeze", None) or ()
  freeze_after = config.pop("freeze_after", None) or ()
  lr_multipliers = config.pop("lr_multipliers", None) or ()
  clip_norm = config.pop("clip_norm", None) or 0.0
  weight_decay = config.pop("weight_decay", None)
  if weight_decay is None:
    weight_decay = 0.004 if config.get("name") == "adamw" else 0.0  # Keras' defaults
  check_number("optimizer.clip_norm", clip_norm, "a number >= 0", lambda x: x >= 0)
  check_number("optimizer.weight_decay", weight_decay, "a number >= 0", lambda x: x >= 0)

  transforms = [call_named("optimizer", METHODS, config, common=_COMMON)]
  if clip_norm:
    transforms.insert(0, optax.clip_by_global_norm(clip_norm))
  if isinstance(weight_decay, jax.Array) or weight_decay:
    transforms.append(_decoupled_weight_decay(weight_decay))
  method = optax.chain(*transforms)
  if freeze:
    parts = {"trained": method, "frozen": optax.set_to_zero()}
    method = optax.multi_transform(parts, lambda params: _frozen_or_trained(params, freeze))

  def by_parameter(updates: PyTree, step: jax.Array) -> PyTree:
    multipliers = _ruled("optimizer.lr_multipliers", lr_multipliers, updates)
    epochs = _ruled("optimizer.freeze_after", freeze_after, updates)
    leaves, treedef = jax.tree.flatten(updates)
    for i, (multiplier, limit) in enumerate(zip(multipliers, epochs, strict=True)):
      if multiplier is not None:
        leaves[i] *= multiplier
      if limit is not None:
        leaves[i] = jnp.where(step < round(limit * steps_per_epoch), leaves[i], 0)
    return treedef.unflatten(leaves)

  def init(params: PyTree) -> OptimizerState:
    by_parameter(params, jnp.int32(0))  # patterns that match no parameter are told of now
    return OptimizerState(jnp.zeros([], jnp.int32), method.init(params))

  def update(gradients, state, params, *, lr_scale: jax.typing.ArrayLike = 1.0):
    learning_rate = schedule(state.step) * lr_scale
    updates, method_state = method.update(
      gradients, state.method, params, learning_rate=learning_rate
    )
    updates = by_parameter(updates, state.step)
    return updates, OptimizerState(optax.safe_increment(state.step), method_state)

  return optax.GradientTransformationExtraArgs(init, update)


def sgd(
  momentum: float = 0.0, nesterov: bool = False, lr_in_velocity: bool = True
) -> optax.GradientTransformation:
  """Keras' SGD: v = momentum * v - lr * g, then w += v.

  Args:
    momentum: in [0, 1).
    nesterov: w += momentum * v - lr * g instead; needs momentum > 0.
    lr_in_velocity: False is PyTorch's SGD: v = momentum * v + g, then w -= lr * v, or with nesterov
      w -= lr * (momentum * v + g).
  """
  check_number("optimizer.momentum", momentum, "a number in [0, 1)", lambda x: 0 <= x < 1)
  if not isinstance(momentum, jax.Array) and momentum == 0:
    if nesterov:
      raise errors.UserError("optimizer.nesterov: needs optimizer.momentum > 0, such as 0.9")
    return _descend()
  velocity = optax.trace(momentum, nesterov)
  return optax.chain(*((_descend(), velocity) if lr_in_velocity else (velocity, _descend())))


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-7) -> optax.GradientTransformation:
  """Keras' Adam (Kingma & Ba 2015); with decoupled weight decay it is AdamW.

  Args:
    b1, b2: in [0, 1), the decay of the first and of the second moment.
    eps: > 0, beside the root of the biased second moment.
  """
  return optax.chain(_scale_by_adam(b1, b2, eps), _descend())


def rmsprop(
  rho: float = 0.9, momentum: float = 0.0, eps: float = 1e-7
) -> optax.GradientTransformation:
  """Keras' RMSprop (Hinton 2012): the step is lr * g / sqrt(second moment + eps).

  Args:
    rho: in [0, 1), the decay of the second moment.
    momentum: in [0, 1), of the steps.
    eps: > 0, inside the root.
  """
  check_number("optimizer.rho", rho, "a number in [0, 1)", lambda x: 0 <= x < 1)
  check_number("optimizer.momentum", momentum, "a number in [0, 1)", lambda x: 0 <= x < 1)
  check_number("optimizer.eps", eps, "a number > 0", lambda x: x > 0)
  direction = optax.chain(optax.scale_by_rms(rho, eps, eps_in_sqrt=True), _descend())
  if not isinstance(momentum, jax.Array) and momentum == 0:
    return direction
  return optax.chain(direction, optax.trace(momentum))


def muon(
  beta: float = 0.95,
  nesterov: bool = True,
  ns_steps: int = 5,
  consistent_rms: float = 0.2,
  adam_lr_ratio: float = 1.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-7,
) -> optax.GradientTransformation:
  """Muon (Jordan 2024, in optax's form) on kernels, `adam` on all else.

  A kernel's last axis is its outputs, the others together its inputs: a convolution of shape
  [3, 3, in, out] is orthogonalised as the matrix [9 * in, out].

  Args:
    beta: in [0, 1), the decay of Muon's momentum.
    nesterov: whether Muon's momentum looks ahead.
    ns_steps: Newton-Schulz iterations, >= 1.
    consistent_rms: > 0: kernels' updates are multiplied by this and by sqrt(max(inputs, outputs)),
      so that their root mean square is like Adam's and Adam's learning rate and weight decay serve
      for both (Liu et al. 2025; Keras' default too). 0: by sqrt(max(1, outputs / inputs)), as in
      Jordan's own; learning rates are then 10 to 100 times larger than Adam's, so that
      adam_lr_ratio has to be small.
    adam_lr_ratio: > 0, Adam's learning rate as a multiple of Muon's.
    b1, b2, eps: Adam's.
  """
  check_number("optimizer.beta", beta, "a number in [0, 1)", lambda x: 0 <= x < 1)
  check_number(
    "optimizer.ns_steps", ns_steps, "a whole number >= 1", lambda x: x >= 1 and x == int(x)
  )
  check_number("optimizer.consistent_rms", consistent_rms, "a number >= 0", lambda x: x >= 0)
  check_number("optimizer.adam_lr_ratio", adam_lr_ratio, "a number > 0", lambda x: x > 0)
  kernels = optax.contrib.muon(
    -1.0,  # optax.contrib.muon descends; this undoes it, for _descend does it
    beta=beta,
    nesterov=nesterov,
    ns_steps=ns_steps,
    consistent_rms=consistent_rms or None,
    muon_weight_dimension_numbers=_matrix_axes,
  )
  rest = optax.chain(_scale_by_adam(b1, b2, eps), optax.scale(adam_lr_ratio))

  def labels(params):
    return jax.tree.map(lambda is_kernel: "muon" if is_kernel else "adam", kernel_mask(params))

  return optax.chain(optax.partition({"muon": kernels, "adam": rest}, labels), _descend())


METHODS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "adam": adam,
  "adamw": adam,
  "muon": muon,
  "muon_sgd": muon_sgd,
  "rmsprop": rmsprop,
  "sgd": sgd,
}


def kernel_mask(params: PyTree) -> PyTree:
  """True for the leaves named 'kernel' (those of convolutions and dense layers), else False."""
  return jax.tree.map_with_path(lambda path, _: _name(path).split("/")[-1] == "kernel", params)


def l2_penalty(params: PyTree, rules: Iterable[tuple[str, float]]) -> jax.Array:
  """Keras' kernel_regularizer=l2(c): the sum over parameters of coefficient * sum(w ** 2).

  The coefficient of a parameter comes from the first rule whose pattern is found (re.search) in its
  path, such as 'ResNetBlock_0/Conv_1/kernel'; without one it is 0. SGD's weight_decay in PyTorch,
  which adds weight_decay * w to the gradient, is a coefficient of half as much.

  Args:
    params: a tree of parameters.
    rules: (regular expression, coefficient >= 0) pairs.

  Returns:
    float32 of shape [].

  Raises:
    UserError: a rule is not such a pair, or decides on no parameter.
  """
  coefficients = _ruled("loss.l2", rules, params)
  penalty = jnp.zeros([], jnp.float32)
  for coefficient, leaf in zip(coefficients, jax.tree.leaves(params), strict=True):
    if coefficient is not None:
      penalty += coefficient * jnp.sum(jnp.square(leaf), dtype=jnp.float32)
  return penalty


def _ruled(field: str, rules: Iterable[tuple[str, float]], params: PyTree) -> list[float | None]:
  """For each parameter the number of the first rule whose pattern its path has; None without one.

  Raises:
    UserError: one of `rules`, those of the config's `field`, is not such a pair, or decides on no
      parameter.
  """
  rules = [_compiled(field, rule) for rule in rules]
  paths = [_name(path) for path, _ in jax.tree.leaves_with_path(params)]
  decided = [
    next((i for i, (pattern, _) in enumerate(rules) if pattern.search(path)), None)
    for path in paths
  ]
  for i, (pattern, _) in enumerate(rules):
    if i not in decided:
      taken = any(pattern.search(path) for path in paths)
      found = "no parameter but what an earlier pattern takes" if taken else "no parameter"
      raise _matches_none(field, pattern.pattern, found, paths)
  return [None if i is None else rules[i][1] for i in decided]


def _frozen_or_trained(params: PyTree, patterns: Iterable[str]) -> PyTree:
  """'frozen' for the parameters whose path a pattern is found in, 'trained' for the others."""
  paths = [_name(path) for path, _ in jax.tree.leaves_with_path(params)]
  for pattern in patterns:
    if not any(re.search(pattern, path) for path in paths):
      raise _matches_none("optimizer.freeze", pattern, "no parameter", paths)
  return jax.tree.map_with_path(
    lambda path, _: "frozen" if any(re.search(p, _name(path)) for p in patterns) else "trained",
    params,
  )


def _matches_none(field: str, pattern: str, found: str, paths: list[str]) -> errors.UserError:
  few = ", ".join(paths[:5]) + (", …" if len(paths) > 5 else "")
  return errors.UserError(f"{field}: pattern {pattern!r} matches {found}; parameters are: {few}")


def _descend() -> optax.GradientTransformationExtraArgs:
  """Multiplies by minus the learning rate that `create` passes along."""

  def update(updates, state, params=None, *, learning_rate):
    return jax.tree.map(lambda u: -learning_rate * u, updates), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _decoupled_weight_decay(weight_decay) -> optax.GradientTransformationExtraArgs:
  def update(updates, state, params, *, learning_rate):
    def decayed(u, w, is_kernel):
      return u - learning_rate * weight_decay * w if is_kernel else u

    return jax.tree.map(decayed, updates, params, kernel_mask(params)), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _scale_by_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
  """optax.scale_by_adam with eps where Keras has it."""
  check_number("optimizer.b1", b1, "a number in [0, 1)", lambda x: 0 <= x < 1)
  check_number("optimizer.b2", b2, "a number in [0, 1)", lambda x: 0 <= x < 1)
  check_number("optimizer.eps", eps, "a number > 0", lambda x: x > 0)

  def update(gradients, state, params=None):
    unbiased_eps = eps / jnp.sqrt(1 - b2 ** (state.count + 1))
    return optax.scale_by_adam(b1, b2, unbiased_eps).update(gradients, state, params)

  return optax.GradientTransformation(optax.scale_by_adam().init, update)


def _matrix_axes(kernels: PyTree) -> PyTree:
  """The axes of each kernel as a matrix: inputs (all but the last) × outputs."""
  return jax.tree.map(
    lambda kernel: optax.contrib.MuonDimensionNumbers(
      tuple(range(kernel.ndim - 1)), kernel.ndim - 1
    ),
    kernels,
  )


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _compiled(field: str, rule: tuple[str, float]) -> tuple[re.Pattern, float]:
  """A rule of `field`, checked, its pattern compiled."""
  if not (isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)):
    raise errors.UserError(
      f"{field}: must be (pattern, number) pairs such as (('kernel', 1e-4),), got {rule!r}"
    )
  pattern, number = rule
  check_number(field, number, f"a number >= 0 for {pattern!r}", lambda x: x >= 0)
  try:
    return re.compile(pattern), number
  except re.error as error:
    raise errors.UserError(f"{field}: {pattern!r} is not a regular expression: {error}") from error
