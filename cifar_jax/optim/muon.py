"""Muon as the CIFAR-10 speedruns have it, an optimizer of `optimizers.METHODS`."""

import jax
import jax.numpy as jnp
import optax

from cifar_jax.registry import check_number


def muon_sgd(
  beta: float = 0.6, ns_steps: int = 3, momentum: float = 0.85
) -> optax.GradientTransformation:
  """airbench94_muon's: Muon on convolutions, whose norms are held, and Nesterov's SGD on all else.

  A convolution's kernel w, of n outputs, is first scaled to the norm √n, then moves by lr times its
  orthogonalised gradient; what `muon` does besides (Adam, a factor by shape, unbiased momentum) is
  not done. The rest moves as by `sgd` with lr_in_velocity=False (Jordan 2024, cifar10-airbench,
  whose Newton-Schulz iterations are in bfloat16; here they are in the gradient's type). Kernels of
  the same shape are orthogonalised together.

  Args:
    beta: in [0, 1), the decay of Muon's momentum.
    ns_steps: Newton-Schulz iterations, >= 1.
    momentum: in [0, 1), of SGD.
  """
  check_number("optimizer.beta", beta, "a number in [0, 1)", lambda x: 0 <= x < 1)
  check_number("optimizer.momentum", momentum, "a number in [0, 1)", lambda x: 0 <= x < 1)
  check_number(
    "optimizer.ns_steps", ns_steps, "a whole number >= 1", lambda x: x >= 1 and x == int(x)
  )

  def update(gradients, velocity, params, *, learning_rate):
    kinds = jax.tree.map(lambda g: beta if g.ndim == 4 else momentum, gradients)
    velocity = jax.tree.map(lambda m, v, g: m * v + g, kinds, velocity, gradients)
    ahead = jax.tree.map(lambda m, v, g: m * v + g, kinds, velocity, gradients)
    leaves, treedef = jax.tree.flatten(ahead)
    weights = treedef.flatten_up_to(params)
    updates = [-learning_rate * leaf for leaf in leaves]
    kernels = [i for i, leaf in enumerate(leaves) if leaf.ndim == 4]
    for shape in {leaves[i].shape: None for i in kernels}:
      alike = [i for i in kernels if leaves[i].shape == shape]
      found = _orthogonalised(jnp.stack([leaves[i] for i in alike]), ns_steps)
      for i, direction in zip(alike, found, strict=True):
        held = jnp.sqrt(shape[-1]) / jnp.linalg.norm(weights[i].ravel())
        updates[i] = (held - 1) * weights[i] - learning_rate * direction
    return treedef.unflatten(updates), velocity

  return optax.GradientTransformationExtraArgs(optax.tree.zeros_like, update)


def _orthogonalised(kernels: jax.Array, steps: int) -> jax.Array:
  """Jordan's quintic Newton-Schulz iteration on kernels [n, …, outputs], each as a matrix."""
  x = kernels.reshape(len(kernels), -1, kernels.shape[-1])
  wide = x.shape[1] < x.shape[2]
  x = x if wide else x.swapaxes(1, 2)  # no more rows than columns
  x /= jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-7
  for _ in range(steps):
    a = x @ x.swapaxes(1, 2)
    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
  return (x if wide else x.swapaxes(1, 2)).reshape(kernels.shape)
