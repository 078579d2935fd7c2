"""Configs: impossible fields are named, and what flattening and comparison return."""

import ml_collections
import pytest

from cifar_jax import errors
from cifar_jax.config import as_json, changed_fields, check_config, flatten
from configs import default


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("num_epoch", 3, "num_epoch: no such config field; did you mean 'num_epochs'?"),
    ("data.nmae", "x", "data.nmae: no such config field; did you mean 'data.name'?"),
    ("num_epochs", -1, "num_epochs: -1 must be at least 1"),
    ("num_epochs", "ten", "num_epochs: 'ten' must be of type int"),
    ("batch_size", 0, "batch_size: 0 must be at least 1"),
    ("optimizer.learning_rate", -0.1, "optimizer.learning_rate: -0.1 must be at least 0"),
    ("optimizer.learning_rate", float("nan"), "optimizer.learning_rate: nan must be at least 0"),
    ("dtype", "float16", "dtype: 'float16' is not one of auto, float32, bfloat16"),
    ("data.validation", 1.5, "data.validation: 1.5 must be a fraction in [0, 1), a count"),
    ("data.validation", "tset", "data.validation: 'tset' must be a fraction in [0, 1), a count"),
    ("loss.label_smoothing", 1.0, "loss.label_smoothing: 1.0 must be in [0, 1)"),
    ("loss.l2", (("kernel", -1.0),), "loss.l2: ('kernel', -1.0) must be a pair"),
    ("ema_decay", 1.0, "ema_decay: 1.0 must be in [0, 1)"),
    ("lookahead.decay", 1.1, "lookahead.decay: 1.1 must be in [0, 1]"),
    ("lookahead.every", -1, "lookahead.every: -1 must be at least 0"),
    ("last_epoch", 0.0, "last_epoch: 0.0 must be in (0, 1]"),
    ("stop_on_spike.factor", 0.5, "stop_on_spike.factor: 0.5 must be more than 1, or 0"),
    ("stop_on_spike.epochs", 0, "stop_on_spike.epochs: 0 must be at least 1"),
    ("tta", "flop", "tta: 'flop' is not one of '', flip, flip_shift1, flip_shift2, multicrop"),
    ("optimizer.freeze_after", ("bias",), "optimizer.freeze_after: 'bias' must be a pair"),
    ("select.monitor", "val_acc", "select.monitor: 'val_acc' is not one of train_loss"),
    ("data.validation", 0, "select.monitor: 'val_accuracy' needs validation examples"),
    ("seed", 2**31, "seed: 2147483648 must be at most 2147483647"),
    ("num_epochs", 10**15, "num_epochs: 1000000000000000 must be at most 2147483647"),
    ("data.split_seed", 2**32, "data.split_seed: 4294967296 must be at most 4294967295"),
    ("optimizer.learning_rate", float("inf"), "optimizer.learning_rate: inf must be finite"),
    ("optimizer.learning_rate", 1e300, "optimizer.learning_rate: 1e+300 must be finite, and fit"),
    ("model.widths", (8, 2**31), "model.widths: 2147483648 must be at most 2147483647"),
    ("optimizer.freeze", ("(",), "optimizer.freeze: '(' is not a regular expression (missing ), u"),
    ("optimizer.freeze", "head", "optimizer.freeze: 'head' must be of type tuple"),
    ("proxy.freeze", (1,), "proxy.freeze: 1 is not a regular expression"),
    ("loss.l2", (("(", 1.0),), "loss.l2: '(' is not a regular expression (missing )"),
    ("loss.l2", (("kernel", float("nan")),), "loss.l2: nan must be finite"),
    ("select.mode", "min", "select.mode: 'min' would take the worst val_accuracy for the best; "),
    ("plateau.mode", "auto", "plateau.mode: 'auto' is not one of min, max"),
    ("plateau.monitor", "val_objective", "plateau.monitor: 'val_objective' is the loss with its"),
  ],
)
def test_impossible_fields_are_named(field, value, message):
  config = default.get_config()
  *parents, leaf = field.split(".")
  section = config
  for parent in parents:
    section = section[parent]
  with section.ignore_type():
    section[leaf] = value
  with pytest.raises(errors.UserError) as raised:
    check_config(config, default.get_config())
  assert str(raised.value).startswith(message)
  assert "\n" not in str(raised.value)


def test_the_last_of_several_seeds_must_be_possible_too():
  config = default.get_config()
  config.seed, config.num_seeds = 2**31 - 2, 2
  check_config(config, default.get_config())
  config.num_seeds = 3
  with pytest.raises(errors.UserError, match=r"^seed: 2147483646 with num_seeds=3 .*2147483647"):
    check_config(config, default.get_config())


def test_flatten_returns_fields_by_full_name():
  config = ml_collections.ConfigDict({"seed": 1, "model": {"stage": {"width": 8}}, "empty": {}})
  fields = {"seed": 1, "model.stage.width": 8}
  assert flatten(config) == flatten(config.to_dict()) == fields
  assert changed_fields(fields, fields) == {}
  assert changed_fields(fields, {"seed": 2, "other": 3}) == fields
  assert changed_fields(fields, fields | {"other": 3}) == {}


def test_as_json_has_lists_for_tuples():
  config = ml_collections.ConfigDict({"loss": {"l2": (("kernel$", 1e-4),)}})
  assert as_json(config) == {"loss": {"l2": [["kernel$", 1e-4]]}}
