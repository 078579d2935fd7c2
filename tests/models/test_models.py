"""The models against published totals, and against the same networks built in Keras."""

import functools
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from keras_weights import copy_weights, flax_weights, random_variables, shapes

import models
from cifar_jax.errors import UserError
from models import preact, resnet

# resnet18 … 152: kuangliu/pytorch-cifar. resnet20 … 110: the paper's 0.27, 0.46, 0.66, 0.85 and
# 1.7 million, exactly. WideResNet: the paper's 11.0, 36.5 and 8.9 million. simple_cnn: report 000.
# preact_resnet18: pytorch-cifar's 11,171,146 and the final batch norm's 1,024. That is resnet18's
# total less the batch norms of its shortcuts, 2 × (128 + 256 + 512), since the others only move;
# with bottlenecks the shortcuts have 2 × 4 × (64 + 128 + 256 + 512).
TRAINABLE = {
  "resnet18": 11_173_962,
  "resnet34": 21_282_122,
  "resnet50": 23_520_842,
  "resnet101": 42_512_970,
  "resnet152": 58_156_618,
  "resnet20": 269_722,
  "resnet32": 464_154,
  "resnet44": 658_586,
  "resnet56": 853_018,
  "resnet110": 1_727_962,
  "preact_resnet18": 11_171_146 + 1_024,
  "preact_resnet34": 21_282_122 - 1_792,
  "preact_resnet50": 23_520_842 - 7_680,
  "preact_resnet101": 42_512_970 - 7_680,
  "preact_resnet152": 58_156_618 - 7_680,
  "wrn16_8": 10_961_370,
  "wrn28_10": 36_479_194,
  "wrn40_4": 8_949_210,
  "wide_resnet": 36_479_194,
  "simple_cnn": 846_634,
  # The reports' others: test_report_models.py has where these come from.
  "pointwise_resnet": 10_476_106,
  # test_airbench.py counts these from the published layers.
  "airbench": 1_971_640,
  "airbench94": 1_971_640,
  "airbench95": 4_604_728,
  "airbench96": 9_915_704,
  "basic_cnn": 1_229_834,
  "inception_cnn": 5_491_210,
  "residual_cnn": 1_296_650,
  "residual_cnn_as_printed": 706_570,
  "vgg16": 14_982_474,
  "lenet2": 2_233_898,
  "lenet3": 1_668_906,
  "vgg19_cifar": 20_554_826,
  "elu_resnet": 11_181_258,
  "elu_resnet18": 11_181_258,
  "elu_resnet20": 4_342_090,
  "elu_resnet50": 23_539_466,
  "elu_resnet110": 27_606_730,
  "two_block_cnn": 2_168_362,
  "two_block_cnn_bn": 2_169_066,
}


@pytest.mark.parametrize("name", models.list_names())
def test_trainable_parameters_at_10_classes(name):
  assert models.count_parameters(shapes({"name": name}))[0] == TRAINABLE[name]


@pytest.mark.parametrize(
  ("config", "num_classes", "size", "expected"),
  [
    # torchvision's totals on ImageNet.
    ({"name": "resnet18", "stem": "imagenet"}, 1000, 64, 11_689_512),
    ({"name": "resnet34", "stem": "imagenet"}, 1000, 64, 21_797_672),
    ({"name": "resnet50", "stem": "imagenet"}, 1000, 64, 25_557_032),
    # pytorch-cifar's resnet18 and WRN-28-10 with 100 classes: 90 × (features + 1) more.
    ({"name": "resnet18"}, 100, 32, 11_220_132),
    ({"name": "wide_resnet"}, 100, 32, 36_536_884),
    # Three stages change shape twice; each projection is a 1×1 convolution and a batch norm.
    ({"name": "resnet20", "shortcut": "B"}, 10, 32, 269_722 + 16 * 32 + 64 + 32 * 64 + 128),
  ],
)
def test_trainable_parameters_with_other_arguments(config, num_classes, size, expected):
  assert models.count_parameters(shapes(config, num_classes, size))[0] == expected


def test_keras_counts_of_the_simple_cnn():
  assert models.count_parameters(shapes({"name": "simple_cnn"})) == (846_634, 896)


@pytest.mark.parametrize("name", models.list_names())
def test_every_model_gives_float32_logits_and_keeps_float32_variables_in_bfloat16(name):
  model = models.create({"name": name}, num_classes=7, dtype=jnp.bfloat16)
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  key = jax.random.key(0)
  variables = jax.eval_shape(functools.partial(model.init, train=False), key, images)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

  def apply(variables, images):
    return model.apply(
      variables,
      images,
      train=True,
      rngs={"dropout": key},
      mutable=["batch_stats", "intermediates"],
      capture_intermediates=True,
    )

  logits, updates = jax.eval_shape(apply, variables, images)
  assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
  assert updates.get("batch_stats", {}) == variables.get("batch_stats", {})
  hidden = {module: out for module, out in updates["intermediates"].items() if module != "head"}
  del hidden["__call__"]
  assert {leaf.dtype for leaf in jax.tree.leaves(hidden)} == {jnp.dtype("bfloat16")}


# Keras as the oracle. A Keras layer has the name of the Flax one, with '.' for the nesting.


@pytest.fixture(scope="module")
def keras():
  import keras

  return keras


@functools.partial(jax.jit, static_argnames=("model", "train"))
def apply(model, variables, images, train, key=None):
  """Logits and the updated collections; compiled, which is quicker than one operation at a time."""
  rngs = None if key is None else {"dropout": key}
  return model.apply(variables, images, train=train, rngs=rngs, mutable=["batch_stats"])


def keras_simple_cnn(keras, widths, dense):
  """Report 000's network, layer by layer, without its augmentation and dropout."""
  # The weights are copied later, and drawing random ones takes seconds.
  conv = functools.partial(keras.layers.Conv2D, kernel_initializer="zeros")
  dense_layer = functools.partial(keras.layers.Dense, kernel_initializer="zeros")
  net = [keras.Input((32, 32, 3))]
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
  model = models.create({"name": "simple_cnn", "dropout": 0.0}, 10)
  images = jnp.asarray(np.random.default_rng(1).uniform(size=(4, 32, 32, 3)), jnp.float32)
  variables = random_variables(model, images)
  twin = keras_simple_cnn(keras, (32, 64, 128), (256, 128))
  copy_weights(variables, twin)

  logits, _ = apply(model, variables, images, train=False)
  np.testing.assert_allclose(logits, twin(images, training=False), rtol=1e-4, atol=1e-4)

  # Training mode: logits, gradients and the moving statistics (momentum 0.99, epsilon 1e-3).
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
  """Residual networks out of Keras layers, with PyTorch's padding and batch norm."""

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
  expected = oracle(images, training=True)  # moves Keras' statistics
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
  moved = {"params": variables["params"], **updates}
  np.testing.assert_allclose(
    apply(model, moved, images, train=False)[0],
    oracle(images, training=False),
    rtol=1e-4,
    atol=1e-4,
  )


# Training.

SMALL = {"name": "simple_cnn", "widths": (4, 8), "dense": (16,), "dropout": 0.5}


def small(**kwargs):
  model = models.create({**SMALL, **kwargs.pop("config", {})}, 10, **kwargs)
  images = jnp.asarray(np.random.default_rng(3).normal(1, 2, (8, 8, 8, 3)), jnp.float32)
  return model, random_variables(model, images[:1]), images


def test_batch_stats_are_updated_functionally():
  model, variables, images = small()
  before = jax.tree.map(np.array, variables)
  _, updates = apply(model, variables, images, train=True, key=jax.random.key(0))
  jax.tree.map(np.testing.assert_array_equal, variables, before)
  assert set(updates) == {"batch_stats"}
  for new, old in zip(
    jax.tree.leaves(updates["batch_stats"]), jax.tree.leaves(before["batch_stats"]), strict=True
  ):
    assert not np.array_equal(new, old)


def per_device(model, variables, images, key, devices):
  def step(variables, images):
    logits, updates = model.apply(
      variables, images, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    return logits, updates["batch_stats"]

  return jax.pmap(step, axis_name="batch", in_axes=(None, 0), devices=jax.devices()[:devices])(
    variables, images.reshape(devices, -1, *images.shape[1:])
  )


@pytest.mark.parametrize("devices", [2, 4])
def test_sync_bn_over_devices_is_one_device_with_the_whole_batch(devices):
  key = jax.random.key(5)
  alone, variables, images = small()
  expected, updates = apply(alone, variables, images, train=True, key=key)
  shared, _, _ = small(axis_name="batch")
  logits, statistics = per_device(shared, variables, images, key, devices)
  np.testing.assert_allclose(logits.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
  for device in range(devices):
    jax.tree.map(
      lambda ours, theirs, device=device: np.testing.assert_allclose(
        ours[device], theirs, rtol=1e-5, atol=1e-6
      ),
      statistics,
      updates["batch_stats"],
    )


def test_without_sync_bn_each_device_has_the_statistics_of_its_own_rows():
  key = jax.random.key(5)
  alone, variables, images = small()
  shared, _, _ = small(axis_name="batch", config={"sync_bn": False})
  _, statistics = per_device(shared, variables, images, key, 2)
  for device in range(2):
    rows = images[4 * device : 4 * device + 4]
    _, updates = apply(alone, variables, rows, train=True, key=key)
    ours = statistics["stage1_norm1"]["mean"][device]
    np.testing.assert_allclose(ours, updates["batch_stats"]["stage1_norm1"]["mean"], rtol=1e-5)


@pytest.mark.parametrize("block", [resnet.BasicBlock, resnet.Bottleneck])
def test_zero_init_residual_starts_as_the_shortcuts_alone(block):
  model = resnet.ResNet(10, block, (2,), (4,), zero_init_residual=True)
  images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
  variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), images)
  params = dict(variables["params"])
  assert params["stage1_block2"]["norm1"]["scale"].all()
  params["stage1_block2"] = jax.tree.map(lambda leaf: 2 * leaf, params["stage1_block2"])
  np.testing.assert_array_equal(
    apply(model, variables, images, train=False)[0],
    apply(model, {**variables, "params": params}, images, train=False)[0],
  )


# The registry.


def test_none_stands_for_the_default_and_lists_for_tuples():
  config = ml_collections.ConfigDict({"name": "simple_cnn", "widths": [4, 8], "dropout": None})
  config.depth = None  # no argument of this model: a blank another model would fill in
  model = models.create(config, 10)
  assert (model.widths, model.dense, model.dropout) == ((4, 8), (256, 128), 0.3)
  hash(model)


def test_sync_bn_is_the_default():
  assert models.create({"name": "resnet18"}, 10, axis_name="batch").sync_bn


def test_known_is_sorted_and_arguments_leave_out_what_a_name_fixes():
  assert models.list_names() == sorted(models.list_names())
  assert models.list_arguments("wide_resnet") == {"depth": 28, "width": 10, "dropout": 0.0}
  assert models.list_arguments("wrn16_8") == {"dropout": 0.0}


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (
      {"name": "resnet81"},
      r"model\.name: unknown model 'resnet81'; did you mean 'resnet18'\? known: .*wrn40_4",
    ),
    ({"name": "perceptron-9000"}, r"model\.name: unknown model 'perceptron-9000'; known: .*"),
    ({}, r"model\.name: missing; known: .*, basic_cnn, .*"),
    (
      {"name": "wide_resnet", "widht": 4},
      r"model\.widht: 'wide_resnet' takes no such argument; "
      r"it takes: depth, dropout, width, pretrained, sync_bn",
    ),
    ({"name": "wrn16_8", "depth": 22}, r"model\.depth: 'wrn16_8' takes no such argument; .*"),
    ({"name": "wide_resnet", "depth": 20}, r"model\.depth: 20 is not 6n \+ 4 with .*"),
    ({"name": "wide_resnet", "depth": 4}, r"model\.depth: 4 is not 6n \+ 4 with .*"),
    ({"name": "wide_resnet", "width": 0}, r"model\.width: 0 is below 1; .*"),
    ({"name": "wide_resnet", "width": "4"}, r"model\.width: '4' is not a whole number; .* 10"),
    ({"name": "wide_resnet", "width": True}, r"model\.width: True is not a whole number; .*"),
    ({"name": "wrn16_8", "dropout": 1.0}, r"model\.dropout: 1\.0 is not a dropout rate; .*"),
    ({"name": "preact_resnet18", "dropout": 2}, r"model\.dropout: 2 is not a dropout rate; .*"),
    ({"name": "simple_cnn", "dropout": -1}, r"model\.dropout: -1 is not a dropout rate; .*"),
    ({"name": "simple_cnn", "widths": (8, 0)}, r"model\.widths: \(8, 0\) is not a tuple of .*"),
    ({"name": "simple_cnn", "widths": 8}, r"model\.widths: 8 is not a tuple of .*"),
    ({"name": "resnet20", "shortcut": "C"}, r"model\.shortcut: 'C' is neither 'A' .* nor 'B' .*"),
    ({"name": "resnet18", "stem": "big"}, r"model\.stem: 'big' is neither 'cifar' nor .*"),
    ({"name": "resnet18", "sync_bn": 1}, r"model\.sync_bn: 1 is not True or False; .*"),
  ],
)
def test_bad_configs_are_refused_by_field(config, message):
  with pytest.raises(UserError) as error:
    models.create(config, 10)
  assert re.fullmatch(message, str(error.value))


def test_an_image_too_small_for_the_stages_is_refused():
  with pytest.raises(UserError, match=r"^model\.widths: 4 stages halve an image of 8x8 pixels"):
    shapes({"name": "simple_cnn", "widths": (4, 4, 4, 4)}, size=8)


def test_a_name_is_registered_once():
  with pytest.raises(ValueError, match="resnet18"):
    models.register("resnet18")(lambda **common: None)
