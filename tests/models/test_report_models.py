"""The reports' networks against the totals that they print, and against Keras' layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from keras_weights import copy_weights, flax_weights, random_variables, shapes

import models
from cifar_jax.optim import optimizers
from models import basic_cnn, elu_resnet, layers, lenet, pointwise_resnet, vgg
from models.normalization import BatchNorm

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def twins():
  import report_twins  # imports Keras, which is slow

  return report_twins


# Totals.


def case(config, twin, num_classes=10, side=32, printed=None, **arguments):
  """A model, its Keras twin with arguments, and (trainable, moving) totals that a report prints."""
  name = "-".join(map(str, config.values()))
  return pytest.param(config, num_classes, side, twin, arguments, printed, id=name)


PHOTOS = {"name": "basic_cnn", "dense": (512,), "single_logit": True}
VGG16, VGG19 = (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)
ELU_18 = {"name": "elu_resnet18"}


@pytest.mark.parametrize(
  ("config", "num_classes", "side", "twin", "arguments", "printed"),
  [
    case({"name": "pointwise_resnet"}, "pointwise_resnet", printed=(10_476_106, 13_568)),
    case({"name": "lenet2"}, "lenet", printed=(2_233_898, 0)),
    case({"name": "lenet3"}, "lenet", widths=(32, 64, 128), printed=(1_668_906, 0)),
    case({"name": "two_block_cnn"}, "two_block_cnn", printed=(2_168_362, 0)),
    case({"name": "two_block_cnn_bn"}, "two_block_cnn", batch_norm=True),
    case({"name": "basic_cnn"}, "basic_cnn"),
    case(
      PHOTOS | {"widths": (32, 32, 32)},
      "basic_cnn",
      num_classes=2,
      side=150,
      widths=(32, 32, 32),
      dense=(512,),
      units=1,
    ),
    case({"name": "inception_cnn"}, "basic_cnn", inception=True),
    case({"name": "residual_cnn"}, "residual_cnn"),
    case({"name": "residual_cnn_as_printed"}, "residual_cnn", as_printed=True),
    case(
      {"name": "vgg16", "single_logit": True}, "vgg", num_classes=2, side=150, stages=VGG16, units=1
    ),
    case({"name": "vgg19_cifar"}, "vgg", stages=VGG19, dense=(512, 512)),
    case({"name": "elu_resnet"}, "elu_resnet", num_classes=100, classes=100),
    case(ELU_18, "elu_resnet"),
    case({"name": "elu_resnet20"}, "elu_resnet", stages=(3, 3, 3)),
    case({"name": "elu_resnet50"}, "elu_resnet", stages=(3, 4, 6, 3), bottleneck=True),
    case({"name": "elu_resnet110"}, "elu_resnet", stages=(18, 18, 18)),
    case(ELU_18 | {"block": "highway"}, "elu_resnet", block="highway"),
    case(ELU_18 | {"block": "sparse"}, "elu_resnet", block="sparse"),
  ],
)
def test_totals(twins, config, num_classes, side, twin, arguments, printed):
  totals = models.count_parameters(shapes(config, num_classes, side))
  network = getattr(twins, twin)(side, **arguments)
  trainable = sum(weight.value.size for weight in network.trainable_weights)
  assert totals == (trainable, network.count_params() - trainable)
  assert printed is None or totals == printed


# Outputs, statistics and regularisers of small networks.

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
  "basic_cnn_valid": (
    basic_cnn.BasicCNN(10, widths=(4, 6), dense=(7,), padding="valid"),
    ("basic_cnn", {"widths": (4, 6), "dense": (7,), "padding": "valid"}),
    (),
  ),
  "inception_cnn": (
    basic_cnn.BasicCNN(10, widths=(4, 6), kind="inception", padding="valid"),
    ("basic_cnn", {"widths": (4, 6), "inception": True, "padding": "valid"}),
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
  "lenet_linear": (
    lenet.LeNet(10, (4, 6), (3, 5), 0.25, 0.4, dense=9, linear_convs=(2, 3, 4)),
    ("lenet", {"widths": (4, 6), "dense": 9, "linear": (2, 3, 4)}),
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
    # This epsilon gates all examples, some or none, depending on the block.
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
  # At 20 pixels the last pooling of the ELU networks sees 5×5 places, so it pads a border.
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
  """Kernels draw from Keras' he_normal if the report names it, else from glorot_uniform."""
  initializers = {}
  param = nn.Module.param

  def record(self, name, init, *args, **kwargs):
    initializers["/".join((*self.path, name))] = init
    return param(self, name, init, *args, **kwargs)

  monkeypatch.setattr(nn.Module, "param", record)
  config = {"name": name} | ({"block": "highway"} if name == "elu_resnet18" else {})
  shapes(config)
  for path, init in initializers.items():
    if path.endswith("kernel"):
      draws = np.ravel(init(jax.random.key(0), (3, 3, 16, 32), jnp.float32))
      # The variance is 2 / inputs for he_normal and 2 / (inputs + outputs) for glorot_uniform.
      # Keras cuts the normal distribution at two standard deviations and widens it in return.
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
def test_every_layer_has_the_axis_of_the_devices(name, sync_bn):
  modules = []

  def record(call, args, kwargs, context):
    modules.append(context.module)
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    shapes({"name": name, "sync_bn": sync_bn}, axis_name="batch")
  norms = {layer.axis_name for layer in modules if isinstance(layer, BatchNorm)}
  dropouts = {layer.axis_name for layer in modules if isinstance(layer, layers.Dropout)}
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
