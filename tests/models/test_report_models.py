"""The reports' networks against the totals they print, and against the same layers in Keras."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from keras_weights import copy_weights, flax_weights, random_variables, shapes

import models
from cifar_jax.errors import UserError
from cifar_jax.optim import optimizers
from models import basic_cnn, elu_resnet, layers, lenet, pointwise_resnet, vgg

PHOTOS = {"name": "basic_cnn", "dense": (512,), "single_logit": True}


@pytest.fixture(scope="module")
def twins():
  import report_twins  # imports Keras, which is slow

  return report_twins


# Totals: the twin's name and arguments; (trainable, moving statistics) where a report prints them.


@pytest.mark.parametrize(
  ("config", "num_classes", "side", "twin", "printed"),
  [
    ({"name": "pointwise_resnet"}, 10, 32, ("pointwise_resnet", {}), (10_476_106, 13_568)),
    ({"name": "lenet2"}, 10, 32, ("lenet", {}), (2_233_898, 0)),
    ({"name": "lenet3"}, 10, 32, ("lenet", {"widths": (32, 64, 128)}), (1_668_906, 0)),
    ({"name": "two_block_cnn"}, 10, 32, ("two_block_cnn", {}), (2_168_362, 0)),
    ({"name": "two_block_cnn_bn"}, 10, 32, ("two_block_cnn", {"batch_norm": True}), None),
    ({"name": "basic_cnn"}, 10, 32, ("basic_cnn", {}), None),
    (
      PHOTOS | {"widths": (32, 32, 32)},
      2,
      150,
      ("basic_cnn", {"widths": (32, 32, 32), "dense": (512,), "units": 1}),
      None,
    ),
    ({"name": "inception_cnn"}, 10, 32, ("basic_cnn", {"inception": True}), None),
    ({"name": "residual_cnn"}, 10, 32, ("residual_cnn", {}), None),
    ({"name": "residual_cnn_as_printed"}, 10, 32, ("residual_cnn", {"as_printed": True}), None),
    (
      {"name": "vgg16", "single_logit": True},
      2,
      150,
      ("vgg", {"stages": (2, 2, 3, 3, 3), "units": 1}),
      None,
    ),
    (
      {"name": "vgg19_cifar"},
      10,
      32,
      ("vgg", {"stages": (2, 2, 4, 4, 4), "dense": (512, 512)}),
      None,
    ),
    ({"name": "elu_resnet"}, 100, 32, ("elu_resnet", {"classes": 100}), None),
    ({"name": "elu_resnet18"}, 10, 32, ("elu_resnet", {}), None),
    ({"name": "elu_resnet20"}, 10, 32, ("elu_resnet", {"stages": (3, 3, 3)}), None),
    (
      {"name": "elu_resnet50"},
      10,
      32,
      ("elu_resnet", {"stages": (3, 4, 6, 3), "bottleneck": True}),
      None,
    ),
    ({"name": "elu_resnet110"}, 10, 32, ("elu_resnet", {"stages": (18, 18, 18)}), None),
    (
      {"name": "elu_resnet18", "block": "highway"},
      10,
      32,
      ("elu_resnet", {"block": "highway"}),
      None,
    ),
    (
      {"name": "elu_resnet18", "block": "sparse"},
      10,
      32,
      ("elu_resnet", {"block": "sparse"}),
      None,
    ),
  ],
  ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_totals(twins, config, num_classes, side, twin, printed):
  totals = models.count_parameters(shapes(config, num_classes, side))
  name, arguments = twin
  network = getattr(twins, name)(side, **arguments)
  trainable = sum(weight.value.size for weight in network.trainable_weights)
  assert totals == (trainable, network.count_params() - trainable)
  assert printed is None or totals == printed


# Outputs, statistics and regularisers of small ones.

ELU_L2 = ((r"(stem_conv|shortcut_conv|conv3)/kernel$", 1e-5), (r"conv.?/kernel$", 1e-4))
SMALL = {
  "pointwise_resnet": (
    pointwise_resnet.PointwiseResNet(10, widths=(4, 8), blocks=2),
    ("pointwise_resnet", {"widths": (4, 8), "blocks": 2}),
    ((r"kernel$", 5e-4),),
  ),
  "basic_cnn": (
    basic_cnn.BasicCNN(10, widths=(4, 6, 8), dense=(7,)),
    ("basic_cnn", {"widths": (4, 6, 8), "dense": (7,)}),
    (),
  ),
  "inception_cnn": (
    basic_cnn.BasicCNN(10, widths=(4, 6, 8), kind="inception"),
    ("basic_cnn", {"widths": (4, 6, 8), "inception": True}),
    (),
  ),
  "residual_cnn": (
    basic_cnn.BasicCNN(10, widths=(4, 6, 8), kind="residual"),
    ("residual_cnn", {"widths": (4, 6, 8)}),
    (),
  ),
  "residual_cnn_as_printed": (
    basic_cnn.BasicCNN(10, widths=(6, 6, 8), kind="residual_as_printed"),
    ("residual_cnn", {"widths": (6, 6, 8), "as_printed": True}),
    (),
  ),
  "vgg": (
    vgg.VGG(10, (1, 2), (4, 6), dense=(8, 7), dropout=0.5),
    ("vgg", {"stages": (1, 2), "widths": (4, 6), "dense": (8, 7), "dropout": 0.5}),
    (),
  ),
  "lenet": (
    lenet.LeNet(10, (4, 6), (3, 5), conv_dropout=0.25, dense_dropout=0.4, dense=9),
    ("lenet", {"widths": (4, 6), "dense": 9}),
    ((r"conv.*kernel$", 1e-4),),
  ),
  "two_block_cnn_bn": (
    lenet.LeNet(10, (4, 6), (3, 3), conv_dropout=0, dense_dropout=0.5, batch_norm=True, dense=9),
    ("two_block_cnn", {"widths": (4, 6), "dense": 9, "batch_norm": True}),
    (),
  ),
  "elu_resnet": (
    elu_resnet.EluResNet(10, (2, 1), width=4, spatial_dropout=0.2),
    ("elu_resnet", {"stages": (2, 1), "width": 4, "spatial_dropout": 0.2}),
    ELU_L2,
  ),
  "elu_resnet_bottleneck": (
    elu_resnet.EluResNet(10, (2, 1), width=4, bottleneck=True),
    ("elu_resnet", {"stages": (2, 1), "width": 4, "bottleneck": True}),
    ELU_L2,
  ),
  "elu_resnet_sparse": (
    # This epsilon gates all examples, some or none, according to the block.
    elu_resnet.EluResNet(10, (2, 1), width=4, block="sparse", epsilon=0.72),
    ("elu_resnet", {"stages": (2, 1), "width": 4, "block": "sparse", "epsilon": 0.72}),
    ELU_L2,
  ),
  "elu_resnet_highway": (
    elu_resnet.EluResNet(10, (2, 1), width=4, block="highway"),
    ("elu_resnet", {"stages": (2, 1), "width": 4, "block": "highway"}),
    ELU_L2,
  ),
}


@pytest.mark.parametrize("name", SMALL)
def test_outputs_statistics_and_regularisers(twins, monkeypatch, name):
  monkeypatch.setattr(layers, "Dropout", twins.FlaxMark)
  model, (twin, arguments), rules = SMALL[name]
  # 20 pixels make the ELU networks' last pooling one of 5 by 5 places, with a border to pad.
  side = 20 if name.startswith("elu") else 16
  images = jnp.asarray(np.random.default_rng(1).uniform(size=(3, side, side, 3)), jnp.float32)
  variables = random_variables(model, images)
  network = getattr(twins, twin)(side, **arguments)
  copy_weights(variables, network)

  @jax.jit
  def ours(variables):
    inference = model.apply(variables, images, train=False)
    return inference, model.apply(variables, images, train=True, mutable=["batch_stats"])

  @jax.jit
  def theirs(trainable, fixed):
    call = functools.partial(network.stateless_call, trainable, fixed, images)
    return call(training=False)[0], call(training=True)

  inference, (training, updates) = ours(variables)
  expected, (expected_training, moved) = theirs(
    [weight.value for weight in network.trainable_variables],
    [weight.value for weight in network.non_trainable_variables],
  )
  np.testing.assert_allclose(inference, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(training, expected_training, rtol=1e-4, atol=1e-4)
  for weight, value in zip(network.non_trainable_variables, moved, strict=True):
    weight.assign(value)
  for layer in network.layers:
    if layer.non_trainable_weights:
      statistics = flax_weights({"params": variables["params"], **updates}, layer)[-2:]
      for weight, value in zip(layer.non_trainable_weights, statistics, strict=True):
        np.testing.assert_allclose(value, weight.value, rtol=1e-4, err_msg=weight.path)

  penalty = optimizers.l2_penalty(variables["params"], rules)
  np.testing.assert_allclose(penalty, sum(network.losses), rtol=1e-5)


@pytest.mark.parametrize(
  ("name", "he"),
  [
    ("pointwise_resnet", True),
    ("vgg19_cifar", True),
    ("elu_resnet18", True),
    ("elu_resnet50", True),
    ("vgg16", False),
    ("lenet3", False),
    ("two_block_cnn_bn", False),
    ("simple_cnn", False),
    ("inception_cnn", False),
    ("residual_cnn", False),
  ],
)
def test_initial_values(monkeypatch, name, he):
  """Keras' he_normal where the report asks for it, else its default, glorot_uniform."""
  found = {}
  param = nn.Module.param

  def recorded(self, name, init, *args, **kwargs):
    found["/".join((*self.path, name))] = init
    return param(self, name, init, *args, **kwargs)

  monkeypatch.setattr(nn.Module, "param", recorded)
  config = {"name": name} | ({"block": "highway"} if name == "elu_resnet18" else {})
  shapes(config)
  for path, init in found.items():
    if path.endswith("kernel"):
      draws = np.ravel(init(jax.random.key(0), (3, 3, 16, 32), jnp.float32))
      # Variance 2 / inputs, and the mean of the inputs' and the outputs' 1 / n. Keras' normal
      # distribution is cut off at two standard deviations and widened to make up for that.
      draws = draws / np.sqrt(2 / 144 if he else 2 / (144 + 288))
      bound, inner = (2 / 0.87962566, 0.7152) if he else (np.sqrt(3), 0.5)
      assert draws.std() == pytest.approx(1, abs=0.03), path
      assert 0.99 * bound < np.abs(draws).max() < 1.0001 * bound, path
      assert np.mean(np.abs(draws) < bound / 2) == pytest.approx(inner, abs=0.03), path
    else:
      expected = 1 if path.endswith("scale") else -2 if path.endswith("gate_conv/bias") else 0
      assert (init(jax.random.key(0), (4,), jnp.float32) == expected).all(), path


def test_only_identity_blocks_have_highway_gates():
  params = shapes({"name": "elu_resnet", "stages": (2,), "block": "highway"})["params"]
  assert "gate_conv" in params["stage1_block2"]
  assert "gate_conv" not in params["stage1_block1"]


@pytest.mark.parametrize("sync_bn", [True, False])
@pytest.mark.parametrize(
  "name",
  ["pointwise_resnet", "basic_cnn", "lenet2", "two_block_cnn_bn", "vgg19_cifar", "elu_resnet18"],
)
def test_every_layer_knows_of_the_other_devices(name, sync_bn):
  found = []

  def note(call, args, kwargs, context):
    found.append(context.module)
    return call(*args, **kwargs)

  with nn.intercept_methods(note):
    shapes({"name": name, "sync_bn": sync_bn}, axis_name="batch")
  norms = {layer.axis_name for layer in found if isinstance(layer, nn.BatchNorm)}
  dropouts = {layer.axis_name for layer in found if isinstance(layer, layers.Dropout)}
  assert norms <= {"batch" if sync_bn else None}
  assert dropouts <= {"batch"}
  assert norms | dropouts


def test_strict_identity_is_the_four_relus(twins):
  response = np.random.default_rng(0).normal(size=(40, 3, 3, 2)).astype(np.float32)
  expected = np.asarray(twins.SparseGate(2.2)(response))
  gated = ~expected.any(axis=(1, 2, 3))
  assert 0 < gated.sum() < 40
  np.testing.assert_allclose(elu_resnet.strict_identity(response, 2.2), expected)
  gradient = jax.grad(lambda x: elu_resnet.strict_identity(x, 2.2).sum())(jnp.asarray(response))
  np.testing.assert_array_equal(
    gradient, np.broadcast_to(~gated[:, None, None, None], (40, 3, 3, 2))
  )
  response[gated.argmax(), 0, 0, 0] = np.nan
  assert np.isnan(elu_resnet.strict_identity(response, 2.2)).any()


# Two classes.


def test_a_single_logit_is_a_sigmoid_with_binary_cross_entropy(twins):
  model = basic_cnn.BasicCNN(2, widths=(4, 5), dense=(6,), single_logit=True)
  rng = np.random.default_rng(4)
  images = jnp.asarray(rng.uniform(size=(6, 12, 12, 3)), jnp.float32)
  labels = jnp.asarray([0, 1, 1, 0, 1, 1])
  variables = random_variables(model, images)
  network = twins.basic_cnn(12, widths=(4, 5), dense=(6,), units=1)
  copy_weights(variables, network)

  def ours(params):
    logits, _ = model.apply(
      {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
    )
    return optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, 2)).mean()

  fixed = [weight.value for weight in network.non_trainable_variables]

  def theirs(trainable):
    logits, _ = network.stateless_call(trainable, fixed, images, training=True)
    probabilities = jax.nn.sigmoid(logits)
    return twins.keras.losses.BinaryCrossentropy()(labels[:, None], probabilities)

  loss, gradients = jax.jit(jax.value_and_grad(ours))(variables["params"])
  trainable = [weight.value for weight in network.trainable_variables]
  expected, keras_gradients = jax.jit(jax.value_and_grad(theirs))(trainable)
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  by_path = {
    weight.path: gradient
    for weight, gradient in zip(network.trainable_variables, keras_gradients, strict=True)
  }
  for layer in network.layers:
    if layer.weights:
      of_layer = flax_weights({"params": gradients}, layer)
      for weight, gradient in zip(layer.trainable_weights, of_layer, strict=True):
        theirs_ = by_path[weight.path]
        scale = np.abs(theirs_).max()
        np.testing.assert_allclose(gradient, theirs_, rtol=1e-3, atol=1e-4 * scale)


def test_a_single_logit_needs_two_classes():
  with pytest.raises(UserError, match=r"^model\.single_logit: .* dataset has 10; leave it False"):
    shapes(PHOTOS)


# VGG's base.


def test_features_computed_once_give_the_same_logits():
  model = vgg.VGG(3, (1, 1), (4, 6), dense=(7,))
  images = jnp.asarray(np.random.default_rng(5).uniform(size=(2, 10, 10, 3)), jnp.float32)
  variables = random_variables(model, images)
  base = variables["params"].pop("base")
  assert set(variables["params"]) == {"dense1", "head"}
  features = vgg.VGGBase(model.stages, model.widths).apply({"params": base}, images)
  assert features.shape == (2, 2, 2, 6)
  on_features = model.clone(from_features=True)
  spec = jax.eval_shape(
    functools.partial(on_features.init, train=False), jax.random.key(0), features
  )
  assert jax.tree.structure(spec) == jax.tree.structure(variables)
  np.testing.assert_array_equal(
    on_features.apply(variables, features, train=True),
    model.apply({"params": {**variables["params"], "base": base}}, images, train=False),
  )


# Bad configs.


@pytest.mark.parametrize(
  ("config", "side", "message"),
  [
    ({"name": "lenet2", "conv_dropout": 1}, 32, r"model\.conv_dropout: 1 is not a dropout .*"),
    ({"name": "lenet3", "dense_dropout": -1}, 32, r"model\.dense_dropout: -1 is not a dropout .*"),
    ({"name": "two_block_cnn", "dropout": 2.0}, 32, r"model\.dropout: 2\.0 is not a dropout .*"),
    ({"name": "vgg19_cifar", "dropout": 1.0}, 32, r"model\.dropout: 1\.0 is not a dropout .*"),
    ({"name": "pointwise_resnet", "dropout": 1.0}, 32, r"model\.dropout: 1\.0 is not a .*"),
    ({"name": "elu_resnet", "block_dropout": 1}, 32, r"model\.block_dropout: 1 is not a .*"),
    ({"name": "elu_resnet", "spatial_dropout": 1}, 32, r"model\.spatial_dropout: 1 is not a .*"),
    ({"name": "elu_resnet", "head_dropout": 1}, 32, r"model\.head_dropout: 1 is not a .*"),
    ({"name": "elu_resnet", "block": "spares"}, 32, r"model\.block: .* did you mean 'sparse'\? .*"),
    ({"name": "elu_resnet", "stages": ()}, 32, r"model\.stages: the tuple is empty; .*"),
    ({"name": "elu_resnet", "epsilon": 0.0}, 32, r"model\.epsilon: must be a number > 0, got 0\.0"),
    ({"name": "elu_resnet", "gate_bias": float("nan")}, 32, r"model\.gate_bias: must be a .*"),
    ({"name": "elu_resnet18", "stages": (1,)}, 32, r"model\.stages: 'elu_resnet18' takes no .*"),
    ({"name": "inception_cnn", "widths": (8,)}, 32, r"model\.widths: \(8,\) is a single stage; .*"),
    (
      {"name": "residual_cnn_as_printed", "widths": (8, 4, 4)},
      32,
      r"model\.widths: \(8, 4, 4\) begins with two different widths; .*",
    ),
    ({"name": "residual_cnn"}, 30, r"model\.name: .* 30x30 pixels; .* must be multiples of 4"),
    ({"name": "lenet3"}, 7, r"model\.name: 3 stages halve an image of 7x7 pixels to nothing; .*"),
    ({"name": "vgg16"}, 31, r"model\.name: 5 stages halve an image of 31x31 pixels to nothing; .*"),
    ({"name": "basic_cnn"}, 7, r"model\.widths: 3 stages halve an image of 7x7 pixels .*"),
  ],
)
def test_bad_configs_are_refused_by_field(config, side, message):
  with pytest.raises(UserError) as error:
    shapes(config, 10, side)
  assert re.fullmatch(message, str(error.value))
