"""The simple CNN and the residual networks against the same networks built in Keras.

A Keras layer has the name of the Flax module, with '.' for the nesting.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras_weights import apply, copy_weights, flax_weights, random_variables

import models
from models import preact, resnet

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def keras():
  import keras

  return keras


def build_simple_cnn(keras, side, widths, dense):
  """Build report 000's network, layer by layer, without its augmentation and dropout."""
  # The test copies weights into the layers. Drawing random ones takes seconds.
  conv = functools.partial(keras.layers.Conv2D, kernel_initializer="zeros")
  dense_layer = functools.partial(keras.layers.Dense, kernel_initializer="zeros")
  net = [keras.Input((side, side, 3))]
  for stage, width in enumerate(widths, start=1):
    for index in (1, 2):
      name = f"stage{stage}_conv{index}"
      net.append(conv(width, 3, padding="same", activation="relu", name=name))
      net.append(keras.layers.BatchNormalization(name=f"stage{stage}_norm{index}"))
    net.append(keras.layers.MaxPooling2D((2, 2)))
  net.append(keras.layers.Flatten())
  for index, units in enumerate(dense, start=1):
    net.append(dense_layer(units, activation="relu", name=f"dense{index}"))
  net.append(dense_layer(10, name="head"))
  return keras.Sequential(net)


def test_simple_cnn_is_the_keras_network(keras):
  fields = {"widths": (6, 8), "dense": (16, 12)}
  model = models.create({"name": "simple_cnn", "dropout": 0.0, **fields}, 10)
  images = jnp.asarray(np.random.default_rng(1).uniform(size=(4, 16, 16, 3)), jnp.float32)
  variables = random_variables(model, images)
  twin = build_simple_cnn(keras, 16, **fields)
  copy_weights(variables, twin)

  logits, _ = apply(model, variables, images, train=False)
  np.testing.assert_allclose(logits, twin(images, training=False), rtol=1e-4, atol=1e-4)

  # In training: logits, gradients and the moving statistics (momentum 0.99, epsilon 1e-3).
  def loss(params):
    variables_ = {**variables, "params": params}
    logits, updates = model.apply(variables_, images, train=True, mutable=["batch_stats"])
    return jnp.sum(logits**2), (logits, updates)

  trainable = [weight.value for weight in twin.trainable_variables]
  fixed = [weight.value for weight in twin.non_trainable_variables]

  def keras_loss(trainable):
    logits, fixed_ = twin.stateless_call(trainable, fixed, images, training=True)
    return jnp.sum(logits**2), (logits, fixed_)

  gradients, (logits, updates) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
  keras_gradients, (keras_logits, moved) = jax.jit(jax.grad(keras_loss, has_aux=True))(trainable)
  np.testing.assert_allclose(logits, keras_logits, rtol=1e-4, atol=1e-4)
  for weight, value in zip(twin.non_trainable_variables, moved, strict=True):
    weight.assign(value)
  by_variable = dict(zip([w.path for w in twin.trainable_variables], keras_gradients, strict=True))
  for layer in twin.layers:
    ours = flax_weights({"params": gradients, **updates}, layer) if layer.weights else []
    for weight, value in zip(layer.weights, ours, strict=True):
      theirs = by_variable.get(weight.path, weight.value)
      scale = np.abs(theirs).max()
      np.testing.assert_allclose(value, theirs, rtol=1e-3, atol=1e-4 * scale, err_msg=weight.path)


class KerasResidual:
  """Build residual networks from Keras layers, with PyTorch's padding and batch norm."""

  def __init__(self, keras):
    self.keras, self.layers = keras, keras.layers

  def conv(self, x, features, size, stride, name):
    x = self.layers.ZeroPadding2D(size // 2)(x)
    return self.layers.Conv2D(
      features, size, strides=stride, use_bias=False, kernel_initializer="zeros", name=name
    )(x)

  def norm(self, x, name):
    return self.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)

  def relu(self, x):
    return self.layers.ReLU()(x)

  def residual(self, x, name, width, stride, bottleneck, shortcut):
    plan = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)] if bottleneck else None
    plan = plan or [(width, 3, stride), (width, 3, 1)]
    y = x
    for index, (features, size, step) in enumerate(plan, start=1):
      y = self.relu(y) if index > 1 else y
      y = self.conv(y, features, size, step, f"{name}.conv{index}")
      y = self.norm(y, f"{name}.norm{index}")
    if x.shape != y.shape:
      if shortcut == "A":
        x = self.layers.AveragePooling2D(1, strides=stride)(x)
        x = self.layers.Concatenate()([x, self.keras.ops.zeros_like(x)])
      else:
        x = self.conv(x, y.shape[-1], 1, stride, f"{name}.shortcut_conv")
        x = self.norm(x, f"{name}.shortcut_norm")
    return self.relu(self.layers.Add()([x, y]))

  def pre_activation(self, x, name, width, stride, bottleneck, first):
    plan = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)] if bottleneck else None
    plan = plan or [(width, 3, stride), (width, 3, 1)]
    y, shortcut = x, x
    for index, (features, size, step) in enumerate(plan, start=1):
      y = self.relu(self.norm(y, f"{name}.norm{index}"))
      if index == 1 and first:
        shortcut = y
      y = self.conv(y, features, size, step, f"{name}.conv{index}")
    if shortcut.shape != y.shape:
      shortcut = self.conv(shortcut, y.shape[-1], 1, stride, f"{name}.shortcut_conv")
    return self.layers.Add()([shortcut, y])

  def network(self, stages, widths, bottleneck=False, shortcut="B", preact=False):
    inputs = x = self.keras.Input((8, 8, 3))
    x = self.conv(x, widths[0], 3, 1, "stem_conv")
    x = x if preact else self.relu(self.norm(x, "stem_norm"))
    for stage, (count, width) in enumerate(zip(stages, widths, strict=True), start=1):
      for index in range(1, count + 1):
        stride = 2 if stage > 1 and index == 1 else 1
        name = f"stage{stage}_block{index}"
        if preact:
          x = self.pre_activation(x, name, width, stride, bottleneck, index == 1)
        else:
          x = self.residual(x, name, width, stride, bottleneck, shortcut)
    x = self.relu(self.norm(x, "final_norm")) if preact else x
    x = self.layers.GlobalAveragePooling2D()(x)
    head = self.layers.Dense(10, kernel_initializer="zeros", name="head")
    return self.keras.Model(inputs, head(x))


@pytest.mark.parametrize(
  ("model", "twin"),
  [
    (
      resnet.ResNet(10, resnet.BasicBlock, (2, 1, 1), (4, 8, 16), shortcut="A"),
      {"stages": (2, 1, 1), "widths": (4, 8, 16), "shortcut": "A"},
    ),
    (
      resnet.ResNet(10, resnet.Bottleneck, (2, 1), (4, 8)),
      {"stages": (2, 1), "widths": (4, 8), "bottleneck": True},
    ),
    (
      preact.PreActResNet(10, preact.PreActBlock, (2, 1), (4, 8), stem_width=4),
      {"stages": (2, 1), "widths": (4, 8), "preact": True},
    ),
    (
      preact.PreActResNet(10, preact.PreActBottleneck, (2, 1), (4, 8), stem_width=4),
      {"stages": (2, 1), "widths": (4, 8), "preact": True, "bottleneck": True},
    ),
  ],
  ids=["basic", "bottleneck", "preact", "preact_bottleneck"],
)
def test_residual_networks_are_the_keras_networks(keras, model, twin):
  images = jnp.asarray(np.random.default_rng(2).normal(size=(2, 8, 8, 3)), jnp.float32)
  variables = random_variables(model, images)
  oracle = KerasResidual(keras).network(**twin)
  copy_weights(variables, oracle)
  logits, updates = apply(model, variables, images, train=True)
  expected = oracle(images, training=True)  # updates Keras' moving statistics
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
  moved = {"params": variables["params"], **updates}
  np.testing.assert_allclose(
    apply(model, moved, images, train=False)[0],
    oracle(images, training=False),
    rtol=1e-4,
    atol=1e-4,
  )
