"""The registry of models: names and arguments, and the errors for bad ones."""

import re

import ml_collections
import pytest
from keras_weights import shapes

import models
from cifar_jax.errors import UserError


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


def test_a_config_may_not_set_what_every_model_receives(monkeypatch):
  def spelled_out(num_classes, width=4, dtype=None, axis_name=None, sync_bn=True):
    raise AssertionError("must not be called")

  monkeypatch.setitem(models._REGISTRY, "spelled_out", (spelled_out, {}))
  assert models.list_arguments("spelled_out") == {"width": 4}
  with pytest.raises(UserError, match=r"^model\.num_classes: .* takes: width, pretrained, sync_bn"):
    models.create({"name": "spelled_out", "num_classes": 7}, 10)


def test_a_name_is_registered_once():
  with pytest.raises(ValueError, match="resnet18"):
    models.register("resnet18")(lambda **common: None)


@pytest.mark.parametrize(
  ("config", "side", "message"),
  [
    ({"name": "lenet2", "conv_dropout": 1}, 32, r"model\.conv_dropout: 1 is not a dropout .*"),
    ({"name": "lenet3", "dense_dropout": -1}, 32, r"model\.dense_dropout: -1 is not a dropout .*"),
    ({"name": "lenet2", "linear_convs": (4, 5)}, 32, r"model\.linear_convs: \(4, 5\) are not .*"),
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
    ({"name": "basic_cnn", "padding": "full"}, 32, r"model\.padding: .* 'full'; .*: same, valid"),
    ({"name": "residual_cnn", "padding": "valid"}, 32, r"model\.padding: .* 'valid'; .* same"),
    (
      {"name": "basic_cnn", "padding": "valid"},
      21,  # 22 is enough: 20, 10, 8, 4, 2, 1
      r"model\.padding: 3 stages without padding leave nothing of an image of 21x21 pixels; .*",
    ),
  ],
)
def test_bad_configs_of_the_reports_models_are_refused_by_field(config, side, message):
  with pytest.raises(UserError) as error:
    shapes(config, 10, side)
  assert re.fullmatch(message, str(error.value))
