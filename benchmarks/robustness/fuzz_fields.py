"""The inputs that fuzz_configs.py draws: values of config fields, and flags of every mode."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from hypothesis import strategies as st

import models
import modes
from cifar_jax.augment import test_time
from cifar_jax.config import METRICS, flatten
from cifar_jax.data import datasets
from cifar_jax.optim import optimizers, schedules
from configs import default

Changes = dict[str, Any]  # values by a field's full name

OPTIONS: dict[str, Any] = {  # main.py's flags, with values that are valid in their modes
  "heartbeat": None,
  "profile": "",
  "from": "",
  "confirm_jump": False,
  "fresh_optimizer": False,
  "seed": None,
  "tta": "",
  "test_set": "",
  "json": False,
  "output": "",
  "picture": "",
  "layer": "",
  "features": "",
  "as_report": False,
  "split": "validation",
  "sweep": "seed=0,1",
  "low": 1e-6,
  "high": 10.0,
  "steps": 300,
  "model": [],
  "format": "",
  "to": None,
  "destination": "",
  "follow": False,
  "license": "",
  "private": False,
  "epochs": None,
  "batches": 8,
  "other_seeds": 7,
  "repair": False,
  "host": "127.0.0.1",
  "port": 8000,
}

# Modes that use the network or absl's flags.
_NOT_TRIED = {"completion", "push", "serve", "sync"}
_FLAGS_NOT_TRIED = {"to", "destination", "follow", "license", "private", "host", "port"}
_DRAWN_FLAGS = sorted(OPTIONS.keys() - _FLAGS_NOT_TRIED)

_NAMES: dict[str, Any] = {
  "model.name": models.list_names(),
  "proxy.model.name": models.list_names(),
  "optimizer.name": list(optimizers.METHODS),
  "schedule.name": list(schedules.SCHEDULES),
  "data.name": list(datasets.list_names()),
  "data.fallback": ["", "digits"],
  "tta": ["", *test_time.KINDS],
  "dtype": ["auto", "float32", "bfloat16"],
  "augment": ["random_crop(padding=2)", "mixup(alpha=1.0) | random_flip()", "cutout(size=40)"],
  "data.validation": [0, 1, 0.0001, 0.999, "last:0.5", "random:.0", "batch_1", "test", 1436, 1437],
} | {f"{section}.monitor": ["", *METRICS] for section in ("plateau", "early_stopping", "select")}

_TEXTS = st.text(max_size=6) | st.sampled_from(
  ["", "(", "[a-", "test", "\x1b[2J", "$\\foo$", "猫", "a\nb", "..", "\0", "\udcff", "nan", "-1"]
)
_EXTREMES = [1e-320, 1e-30, 1e38, 1e308, -0.0, float("nan"), float("inf")]
_NUMBERS = (
  st.integers(-2, 64)
  | st.integers(2**31 - 2, 2**31 + 1)
  | st.sampled_from([2**32, 2**63, 10**30, -(2**63), 10**400])
  | st.floats()
  | st.floats(0, 1)
  | st.sampled_from(_EXTREMES)
)
_RULES = st.tuples(st.sampled_from(["", "kernel$", "(", "head"]) | _TEXTS, _NUMBERS)
_VALUES = st.recursive(
  st.none() | st.booleans() | _NUMBERS | _TEXTS | st.binary(max_size=3),
  lambda inner: (
    st.lists(inner | _RULES, max_size=3).map(tuple)
    | st.lists(inner, max_size=3)
    | st.dictionaries(_TEXTS.filter(lambda text: "." not in text), inner, max_size=2)
  ),
  max_leaves=4,
)


class _Field(NamedTuple):
  """A field's default, and alternative changes after each of which the field is used."""

  default: Any
  owners: list[Changes]


def _list_fields(model_names: Iterable[str]) -> dict[str, _Field]:
  """Return every field of a config, and every argument that its sections may hold, by name."""
  fields = {name: _Field(value, [{}]) for name, value in flatten(default.get_config()).items()}

  def add(section: str, name: str, arguments: Mapping[str, Any]) -> None:
    for argument, value in arguments.items():
      field = fields.setdefault(f"{section}.{argument}", _Field(value, []))
      field.owners.append({f"{section}.name": name})

  for name in model_names:
    add("model", name, models.list_arguments(name))
  for section, functions in (("optimizer", optimizers.METHODS), ("schedule", schedules.SCHEDULES)):
    for name, function in functions.items():
      parameters = inspect.signature(function).parameters.values()
      add(section, name, {p.name: p.default for p in parameters if p.default is not p.empty})
  for name, value in {"data.options.size": 8, "data.options.per_class": 5, "new": 0}.items():
    fields[name] = _Field(value, [{}])
  fields["proxy.model.widths"] = _Field((2, 2, 2), [{"proxy.keep": 32}])
  return fields


ALL_FIELDS = _list_fields(models.list_names())
# Fields of networks that are traced in a second or two.
TRACED_FIELDS = _list_fields(["airbench94", "lenet2", "basic_cnn", "two_block_cnn", "simple_cnn"])


def _draw_value(name: str, field: _Field) -> st.SearchStrategy[Any]:
  """Return a strategy for the values of a field: mostly of its type, often out of range."""
  if name in _NAMES:
    return st.sampled_from(_NAMES[name]) | st.sampled_from(_NAMES[name]) | _VALUES
  whole = st.integers(-1, 9) | st.integers(-1, 200) | st.sampled_from([2**31 - 1, 2**31, 10**30])
  real = st.floats(-0.5, 2) | st.floats(0, 1) | st.sampled_from(_EXTREMES) | whole
  if isinstance(field.default, bool):
    return st.booleans() | st.booleans() | _VALUES
  if isinstance(field.default, int):
    return whole | whole | _VALUES
  if isinstance(field.default, float):
    return real | real | _VALUES
  if isinstance(field.default, tuple):
    items = whole if field.default else whole | real | _TEXTS | _RULES
    tuples = st.lists(items, max_size=3) | st.lists(_RULES, max_size=2)
    return tuples.map(tuple) | _VALUES
  return _VALUES


@st.composite
def draw_changes(draw: st.DrawFn, fields: Mapping[str, _Field]) -> Changes:
  """Draw up to three fields with wrong or unusual values."""
  changes: Changes = {}
  for name in draw(st.lists(st.sampled_from(list(fields)), min_size=1, max_size=3, unique=True)):
    owner = draw(st.sampled_from(fields[name].owners))
    changes |= owner | {name: draw(_draw_value(name, fields[name]))}
  return changes


@st.composite
def draw_calls(draw: st.DrawFn) -> dict[str, Any]:
  """Draw a mode with its config, flags and paths, as absl's flags may pass them."""
  integers = st.integers(-(2**70), 2**70) | st.integers(-2, 400)
  texts = _TEXTS | st.sampled_from(
    [
      "1:2",
      "2:1",
      "0/2",
      "2/1",
      "1/0",
      "²/²",
      "flip",
      "head",
      "0,1",
      "3,3",
      "seed=0,1",
      "seed=1 at_once=x",
    ]
  )
  changed: dict[str, Any] = {}
  for name in draw(st.lists(st.sampled_from(_DRAWN_FLAGS), max_size=3, unique=True)):
    if name in ("json", "as_report", "confirm_jump", "fresh_optimizer", "repair"):
      changed[name] = draw(st.booleans())
    elif name in ("low", "high", "heartbeat"):
      changed[name] = draw(st.floats() | st.floats(0, 10))
    elif name == "model":
      changed[name] = draw(st.lists(texts, max_size=2))
    elif name in ("epochs", "batches", "other_seeds"):
      changed[name] = draw(st.integers(1, 2**31))  # main.py refuses less
    else:
      changed[name] = draw(integers if name in ("seed", "steps") else texts)
  return {
    "mode": draw(st.sampled_from(sorted(modes.MODES.keys() - _NOT_TRIED))),
    "changes": draw(st.just({}) | draw_changes(TRACED_FIELDS)),
    "paths": draw(st.lists(_TEXTS, max_size=2)),
    "workdirs": draw(st.lists(_TEXTS, max_size=1)),
    "options": OPTIONS | changed,
  }
