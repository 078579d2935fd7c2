"""Muon, which orthogonalises the updates of kernels: optax's form and that of the speedruns."""

import jax
import jax.numpy as jnp
import optax

from cifar_jax.optim.parameter_rules import kernel_mask
from cifar_jax.optim.transformations import check_decay, descend, scale_by_adam
from cifar_jax.registry import check_number
from cifar_jax.types import PyTree


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
  """Return Muon (Jordan 2024, in optax's form) on kernels, and Adam on all other parameters.

  A kernel's last axis is its outputs, and the other axes together are its inputs: a convolution of
  shape [3, 3, in, out] is orthogonalised as the matrix [9 * in, out].

  Args:
    beta: in [0, 1), the decay of Muon's momentum.
    nesterov: whether Muon uses Nesterov momentum.
    ns_steps: the number of Newton-Schulz iterations, in [1, 100].
    consistent_rms: >= 0. A positive value scales kernels' updates by it and by
      sqrt(max(inputs, outputs)). Their root mean square is then like that of Adam's updates, and
      one learning rate and weight decay suit both (Liu et al. 2025; also Keras' default). 0 scales
      them by sqrt(max(1, outputs / inputs)), as Jordan does; learning rates are then 10 to 100
      times larger than Adam's, and adam_lr_ratio has to be small.
    adam_lr_ratio: Adam's learning rate as a multiple of Muon's, > 0.
    b1, b2, eps: the arguments of `optimizers.adam`.

  Raises:
    UserError: an argument is out of range; names the field.
  """
  check_decay("beta", beta)
  _check_iterations(ns_steps)
  check_number("optimizer.consistent_rms", consistent_rms, "a number >= 0", lambda x: x >= 0)
  check_number("optimizer.adam_lr_ratio", adam_lr_ratio, "a number > 0", lambda x: x > 0)
  on_kernels = optax.contrib.muon(
    -1.0,  # undoes optax.contrib.muon's descent, because `descend` follows
    beta=beta,
    nesterov=nesterov,
    ns_steps=int(ns_steps),  # optax refuses 5.0
    consistent_rms=consistent_rms or None,
    muon_weight_dimension_numbers=_find_matrix_axes,
  )
  on_others = optax.chain(scale_by_adam(b1, b2, eps), optax.scale(adam_lr_ratio))

  def label(params: PyTree) -> PyTree:
    return jax.tree.map(lambda is_kernel: "muon" if is_kernel else "adam", kernel_mask(params))

  return optax.chain(optax.partition({"muon": on_kernels, "adam": on_others}, label), descend())


def muon_sgd(
  beta: float = 0.6, ns_steps: int = 3, momentum: float = 0.85
) -> optax.GradientTransformation:
  """Return airbench94_muon's optimizer: Muon on convolutions, Nesterov SGD on all other parameters.

  `optimizers.create` first scales a convolution's kernel by `normalise_kernels`. The kernel then
  moves by the learning rate times its orthogonalised gradient (with Nesterov momentum). Unlike
  `muon`, this method has no factor that depends on the shape, and does not correct the momentum's
  bias. The other parameters move as with `sgd` and lr_in_velocity=False.

  Source: Jordan 2024, cifar10-airbench, where Newton-Schulz iterations are in bfloat16; here they
  have the gradient's dtype. Kernels of the same shape are orthogonalised together.

  Args:
    beta: in [0, 1), the decay of Muon's momentum.
    ns_steps: the number of Newton-Schulz iterations, in [1, 100].
    momentum: in [0, 1), the momentum of SGD.

  Raises:
    UserError: an argument is out of range; names the field.
  """
  check_decay("beta", beta)
  check_decay("momentum", momentum)
  _check_iterations(ns_steps)

  def update(
    gradients: optax.Updates,
    velocity: optax.Updates,
    params: optax.Params | None = None,
    *,
    learning_rate: float | jax.Array,
  ) -> tuple[optax.Updates, optax.Updates]:
    def accelerate(v: jax.Array, g: jax.Array) -> jax.Array:
      return (beta if g.ndim == 4 else momentum) * v + g

    velocity = jax.tree.map(accelerate, velocity, gradients)
    directions = jax.tree.map(accelerate, velocity, gradients)  # Nesterov's look-ahead
    leaves, treedef = jax.tree.flatten(directions)
    updates = [-learning_rate * leaf for leaf in leaves]
    kernels = [i for i, leaf in enumerate(leaves) if leaf.ndim == 4]
    for shape in {leaves[i].shape: None for i in kernels}:
      same_shape = [i for i in kernels if leaves[i].shape == shape]
      orthogonal = _orthogonalise(jnp.stack([leaves[i] for i in same_shape]), int(ns_steps))
      for i, direction in zip(same_shape, orthogonal, strict=True):
        updates[i] = -learning_rate * direction
    return jax.tree.unflatten(treedef, updates), velocity

  return optax.GradientTransformationExtraArgs(optax.tree.zeros_like, update)


def normalise_kernels(updates: PyTree, params: PyTree, labels: PyTree) -> PyTree:
  """Return updates that also scale each convolution's kernel with n outputs to the norm √n.

  No learning rate scales this part of an update, so it is added after `lr_multipliers`.

  Args:
    updates, params: trees of the same structure and shapes.
    labels: a tree of the same structure with the labels of `label_frozen`; frozen kernels keep
      their norm.
  """

  def normalise(update: jax.Array, weights: jax.Array, label: str) -> jax.Array:
    if weights.ndim != 4 or label == "frozen":
      return update
    scale = jnp.sqrt(weights.shape[-1]) / jnp.linalg.norm(weights.ravel())
    return (scale - 1) * weights + update

  return jax.tree.map(normalise, updates, params, labels)


def _check_iterations(ns_steps: int) -> None:
  check_number(
    "optimizer.ns_steps",
    ns_steps,
    "a whole number in [1, 100]",  # the loop is unrolled
    lambda x: 1 <= x <= 100 and x == int(x),
  )


def _orthogonalise(kernels: jax.Array, num_steps: int) -> jax.Array:
  """Return kernels [n, …, outputs], each orthogonalised as a matrix [inputs, outputs].

  The iteration is Jordan's quintic Newton-Schulz.
  """
  x = kernels.reshape(len(kernels), -1, kernels.shape[-1])
  is_wide = x.shape[1] < x.shape[2]
  x = x if is_wide else x.swapaxes(1, 2)  # no more rows than columns
  x /= jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-7
  for _ in range(num_steps):
    a = x @ x.swapaxes(1, 2)
    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
  return (x if is_wide else x.swapaxes(1, 2)).reshape(kernels.shape)


def _find_matrix_axes(kernels: PyTree) -> PyTree:
  """Return the axes of each kernel as a matrix: inputs (all but the last) × outputs."""
  return jax.tree.map(
    lambda kernel: optax.contrib.MuonDimensionNumbers(
      tuple(range(kernel.ndim - 1)), kernel.ndim - 1
    ),
    kernels,
  )
