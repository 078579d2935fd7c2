"""The callbacks against those of Keras, epoch by epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_jax import errors
from cifar_jax.training import callbacks

# Keras raises this warning at every read of a variable.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

EPOCHS = 30

# Few different values, exact in float32, so that there are ties and long waits.
values_of_a_run = st.lists(
  st.integers(-8, 8).map(lambda i: i / 16), min_size=EPOCHS, max_size=EPOCHS
)
quick = settings(max_examples=15, deadline=None)


@pytest.fixture(scope="module")
def keras_model():
  import keras

  model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
  model.compile(keras.optimizers.SGD(0.1), "mse")
  return model


_traces = {}


def trace(callback, values):
  """Return the states after each epoch, stacked; compile once for each callback's settings."""

  def run(values):
    def epoch(state, at):
      state = callback.update(state, *at)
      return state, state

    takes_epoch = not isinstance(callback, callbacks.Plateau)
    at = (jnp.arange(EPOCHS), values) if takes_epoch else (values,)
    return jax.lax.scan(epoch, callback.init(), at)[1]

  if callback not in _traces:
    _traces[callback] = jax.jit(run)
  return jax.tree.map(np.asarray, _traces[callback](jnp.asarray(values, jnp.float32)))


PLATEAUS = [
  {},
  {"patience": 2, "cooldown": 0},
  {"patience": 2, "cooldown": 1},
  {"patience": 2, "cooldown": 2},
  {"patience": 1, "cooldown": 5},
  {"patience": 3, "cooldown": 2, "min_delta": 0.0},
  {"patience": 0, "cooldown": 2, "min_delta": 1 / 16},
  {"patience": 1, "min_lr": 0.02, "factor": 0.5},
  {"patience": 1, "min_lr": 0.02, "factor": 0.5, "cooldown": 3},
  {"patience": 1, "min_lr": 0.5},
  # Reports 000 and 003.
  {"patience": 5, "factor": 0.5, "min_lr": 1e-6},
  {"min_lr": 1e-4},
]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("arguments", PLATEAUS, ids=str)
@quick
@given(values=values_of_a_run)
def test_plateau_is_keras(keras_model, arguments, mode, values):
  import keras

  keras_model.optimizer.learning_rate = 0.1
  callback = keras.callbacks.ReduceLROnPlateau("val", mode=mode, **arguments)
  callback.set_model(keras_model)
  callback.on_train_begin()
  rates = []
  for epoch, value in enumerate(values):
    callback.on_epoch_end(epoch, {"val": value})
    rates.append(float(keras_model.optimizer.learning_rate.value))
  ours = trace(callbacks.Plateau(0.1, mode=mode, **arguments), values)
  np.testing.assert_allclose(0.1 * ours.scale, rates, rtol=1e-5)


@pytest.mark.parametrize("cooldown", [0, 1, 2, 5])
def test_plateau_cooldown_without_improvement(keras_model, cooldown):
  # Never better: a reduction every max(cooldown - 1, 0) + patience epochs after the first.
  ours = trace(callbacks.Plateau(0.1, patience=2, cooldown=cooldown), np.zeros(EPOCHS))
  reductions = np.flatnonzero(np.diff(ours.scale, prepend=1.0))
  assert reductions.tolist() == list(range(2, EPOCHS, 2 + max(cooldown - 1, 0)))


def test_plateau_min_delta_of_zero_takes_the_least_improvement():
  falling = [1.0]
  for _ in range(EPOCHS - 1):
    falling.append(float(np.nextafter(np.float32(falling[-1]), np.float32(0))))
  plateau = callbacks.Plateau(0.1, patience=1, min_delta=0.0)
  assert trace(plateau, falling).scale.tolist() == [1.0] * EPOCHS
  assert trace(plateau, [1.0] * EPOCHS).scale[1] == np.float32(0.1)


EARLY_STOPPINGS = [
  {},
  {"patience": 1},
  {"patience": 4},
  {"patience": 3, "min_delta": 1 / 16},
  {"patience": 3, "min_delta": 0.1},
  {"patience": 15},
]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("arguments", EARLY_STOPPINGS, ids=str)
@quick
@given(values=values_of_a_run)
def test_early_stopping_is_keras(keras_model, arguments, mode, values):
  import keras

  callback = keras.callbacks.EarlyStopping("val", mode=mode, **arguments)
  callback.set_model(keras_model)
  callback.on_train_begin()
  keras_model.stop_training = False
  ours = trace(callbacks.EarlyStopping(mode=mode, **arguments), values)
  for epoch, value in enumerate(values):
    callback.on_epoch_end(epoch, {"val": value})
    assert ours.wait[epoch] == callback.wait
    assert ours.stopped_epoch[epoch] == (callback.stopped_epoch or -1)
    assert ours.improved[epoch] == (callback.best_epoch == epoch)
    assert ours.best[epoch] == callback.best
    if keras_model.stop_training:
      break
  else:
    return
  for after in range(epoch + 1, EPOCHS):
    for field in ours:
      assert field[after] == field[epoch]


@pytest.mark.parametrize("mode", ["min", "max"])
@quick
@given(values=values_of_a_run)
def test_best_tracker_is_model_checkpoint(mode, values):
  import keras

  callback = keras.callbacks.ModelCheckpoint("unused.keras", "val", save_best_only=True, mode=mode)
  callback._set_monitor_op()
  ours = trace(callbacks.BestTracker(mode), values)
  best_epoch = -1
  for epoch, value in enumerate(values):
    saves = callback._should_save_model(epoch, None, {"val": value}, "unused.keras")
    best_epoch = epoch if saves else best_epoch
    assert ours.improved[epoch] == saves
    assert ours.best_epoch[epoch] == best_epoch
    assert ours.best[epoch] == callback.best
  assert ours.best_epoch[-1] == (np.argmin(values) if mode == "min" else np.argmax(values))


def test_best_tracker_frozen():
  tracker = callbacks.BestTracker("max")
  state = tracker.update(tracker.init(), 0, 0.5)
  after = tracker.update(state, 1, 0.9, frozen=True)
  assert (float(after.best), int(after.best_epoch), bool(after.improved)) == (0.5, 0, False)
  both = jax.vmap(tracker.update, in_axes=(None, None, None, 0))(
    state, 1, 0.9, jnp.array([True, False])
  )
  assert both.best_epoch.tolist() == [0, 1]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_never_improves(mode):
  values = [np.nan, 0.5, np.nan, np.nan] + [0.5] * (EPOCHS - 4)
  best = trace(callbacks.BestTracker(mode), values)
  assert best.best_epoch.tolist() == [-1] + [1] * (EPOCHS - 1)
  assert best.improved.tolist() == [False, True] + [False] * (EPOCHS - 2)
  stop = trace(callbacks.EarlyStopping(mode, patience=2), values)
  assert stop.wait[:4].tolist() == [1, 0, 1, 2]
  assert stop.stopped_epoch[3:].tolist() == [3] * (EPOCHS - 3)
  assert stop.best[-1] == 0.5
  plateau = trace(callbacks.Plateau(0.1, mode=mode, patience=2), values)
  np.testing.assert_allclose(plateau.scale[:5], [1, 1, 1, 0.1, 0.1])
  assert np.all(np.isfinite(plateau.scale))


def test_nan_in_the_first_epoch_does_not_stop():
  state = callbacks.EarlyStopping().update(callbacks.EarlyStopping().init(), 0, jnp.nan)
  assert int(state.stopped_epoch) == -1


@pytest.mark.parametrize(
  "callback",
  [
    callbacks.Plateau(0.1, patience=2, cooldown=3, min_lr=0.005),
    callbacks.EarlyStopping(patience=3),
    callbacks.BestTracker("max"),
  ],
  ids=lambda c: type(c).__name__,
)
def test_vmap_over_seeds_is_one_by_one(callback):
  values = np.random.default_rng(0).integers(-8, 8, (4, EPOCHS)) / 16
  alone = [trace(callback, row) for row in values]
  together = jax.vmap(_traces[callback])(jnp.asarray(values, jnp.float32))
  for i, expected in enumerate(alone):
    jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), together, expected)
  if isinstance(callback, callbacks.EarlyStopping):
    assert len(set(together.stopped_epoch[:, -1].tolist())) > 1  # each seed stops on its own


def test_plateau_with_swept_learning_rates():
  def last_scale(learning_rate):
    plateau = callbacks.Plateau(learning_rate, patience=1, min_lr=0.02)
    state = plateau.init()
    for value in (1.0, 1.0, 1.0):
      state = plateau.update(state, value)
    return state.scale

  scales = jax.vmap(last_scale)(jnp.array([0.01, 0.1, 1.0, 10.0]))
  np.testing.assert_allclose(scales, [1, 0.2, 0.02, 0.01], rtol=1e-6)


@pytest.mark.parametrize(
  "make,message",
  [
    (lambda: callbacks.Plateau(0.1, mode="auto"), "plateau.mode: must be 'min' or 'max', got 'aut"),
    (lambda: callbacks.EarlyStopping(mode="up"), "early_stopping.mode: must be 'min' or 'max'"),
    (lambda: callbacks.BestTracker("acc"), "select.mode: must be 'min' or 'max', got 'acc'"),
    (lambda: callbacks.Plateau(0.0), "optimizer.learning_rate: must be a number > 0, got 0.0"),
    (lambda: callbacks.Plateau(0.1, factor=1.0), "plateau.factor: must be a number in (0, 1)"),
    (lambda: callbacks.Plateau(0.1, patience=-1), "plateau.patience: must be a whole number of"),
    (lambda: callbacks.Plateau(0.1, patience=1.5), "plateau.patience: must be a whole number of"),
    (lambda: callbacks.Plateau(0.1, min_delta=-1), "plateau.min_delta: must be a number >= 0"),
    (lambda: callbacks.Plateau(0.1, cooldown=-1), "plateau.cooldown: must be a whole number of"),
    (lambda: callbacks.Plateau(0.1, min_lr=-1), "plateau.min_lr: must be a number >= 0"),
    (lambda: callbacks.EarlyStopping(patience=-1), "early_stopping.patience: must be a whole"),
    (lambda: callbacks.EarlyStopping(min_delta=-1), "early_stopping.min_delta: must be a number"),
  ],
)
def test_bad_values_name_the_field(make, message):
  with pytest.raises(errors.UserError) as raised:
    make()
  assert str(raised.value).startswith(message)
