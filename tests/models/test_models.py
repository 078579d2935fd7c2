"""All models against published totals, and batch norm over one or several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from keras_weights import apply, random_variables, shapes

import models
from models import resnet

pytestmark = pytest.mark.usefixtures("quick_compilation")

# resnet18 … 152: kuangliu/pytorch-cifar. resnet20 … 110: the paper's 0.27, 0.46, 0.66, 0.85 and
# 1.7 million, exactly. WideResNet: the paper's 11.0, 36.5 and 8.9 million. simple_cnn: report 000.
# preact_resnet18: pytorch-cifar's 11,171,146 and the final batch norm's 1,024. That is resnet18's
# total without the batch norms of its shortcuts, 2 × (128 + 256 + 512); with bottlenecks these have
# 2 × 4 × (64 + 128 + 256 + 512). All other batch norms only move.
TRAINABLE = {  # at 10 classes
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
  # The reports' other networks: test_report_models.py counts them in Keras.
  "pointwise_resnet": 10_476_106,
  # test_airbench.py counts these in the published layers.
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
# More of the blocks that others have, and slow to trace.
DEEPER = {"resnet44", "resnet56", "resnet101", "resnet110", "resnet152"}
DEEPER |= {"preact_resnet101", "preact_resnet152", "elu_resnet110"}


@pytest.mark.parametrize("name", models.list_names())
def test_every_model_has_its_parameters_and_keeps_float32_around_bfloat16(name):
  model = models.create({"name": name}, num_classes=7, dtype=jnp.bfloat16)
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  key = jax.random.key(0)
  variables = jax.eval_shape(functools.partial(model.init, train=False), key, images)
  per_class = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["head"])) // 7
  assert models.count_parameters(variables)[0] + 3 * per_class == TRAINABLE[name]
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  if name in DEEPER:
    return

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

  # An exported program takes any number of images.
  (batch,) = export.symbolic_shape("n")
  images = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
  logits = jax.eval_shape(functools.partial(model.apply, train=False), variables, images)
  assert logits.shape == (batch, 7)


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
def test_sync_bn_over_devices_is_one_device_with_the_complete_batch(devices):
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


def test_without_sync_bn_each_device_has_the_statistics_of_its_rows():
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
