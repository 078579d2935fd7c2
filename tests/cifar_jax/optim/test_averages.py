"""Averages of weights against Keras and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from optimizer_traces import (
  UPDATES,
  make_gradients,
  make_params,
  train_keras,
)

from cifar_jax.optim import averages


def test_ema_is_keras(keras_optimizers):
  params = make_params()
  gradients = make_gradients(params)
  keras = keras_optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
  weights = train_keras(keras, params, gradients)
  average = weights[0]  # Keras' average starts at the weights after the first update
  for step, new in enumerate(weights[1:]):
    average = averages.update_ema(average, new, step, 0.9, warmup=False)
  theirs = [average.value for average in keras._model_variables_moving_average]
  for a, b in zip(jax.tree.leaves(average), theirs, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


ARRAYS = hnp.arrays(np.float32, (3,), elements=st.floats(-100, 100, width=32))
NORMAL_ARRAYS = hnp.arrays(  # XLA computes with zero for subnormal numbers
  np.float32, (3,), elements=st.floats(-100, 100, width=32, allow_subnormal=False)
)


@settings(max_examples=50, deadline=None)
@given(average=ARRAYS, new=ARRAYS, step=st.integers(0, 10**6), decay=st.floats(0, 1))
def test_ema_lies_between_and_warmup_forgets_sooner(average, new, step, decay):
  plain = np.asarray(averages.update_ema(average, new, step, decay, warmup=False))
  warm = np.asarray(averages.update_ema(average, new, step, decay, warmup=True))
  np.testing.assert_allclose(plain, decay * average + (1 - decay) * new, rtol=1e-4, atol=1e-4)
  lowest, highest = np.minimum(average, new) - 1e-4, np.maximum(average, new) + 1e-4
  assert np.all((lowest <= warm) & (warm <= highest))
  assert np.all(np.abs(warm - new) <= np.abs(plain - new) + 1e-4)  # warm-up forgets sooner
  if decay <= 0.1:  # the warm-up's decay starts at 0.1
    np.testing.assert_allclose(warm, plain, rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(weights=NORMAL_ARRAYS, step=st.integers(1, 100), decay=st.floats(0, 1))
def test_weights_that_do_not_change_stay_bit_for_bit(weights, step, decay):
  average = averages.update_ema(weights, weights, step, decay)
  both = averages.update_lookahead(weights, weights, step, 100, every=1, decay=decay, power=3.0)
  for result in (average, *both):
    np.testing.assert_array_equal(result, weights)


def test_lookahead_with_constant_decay_is_optax():
  params = make_params()
  gradients = make_gradients(params)
  theirs = optax.lookahead(optax.sgd(0.1), sync_period=3, slow_step_size=0.3)
  both = optax.LookaheadParams.init_synced(params)
  state, slow, fast = theirs.init(both), params, params
  for step, gradient in enumerate(gradients, start=1):
    updates, state = theirs.update(gradient, state, both)
    both = optax.apply_updates(both, updates)
    fast = jax.tree.map(lambda w, g: w - 0.1 * g, fast, gradient)
    slow, fast = averages.update_lookahead(slow, fast, step, UPDATES, every=3, decay=0.7, power=0.0)
    for a, b in ((slow, both.slow), (fast, both.fast)):
      jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_lookahead_decay_grows_as_published_and_the_run_ends_with_slow_weights():
  slow, fast = jnp.float32(1.0), jnp.float32(3.0)
  options = {"every": 5, "decay": 0.95**5, "power": 3.0}
  for step in range(1, 13):
    new_slow, new_fast = averages.update_lookahead(slow, fast, step, 12, **options)
    if step in (5, 10):
      decay = 0.95**5 * (step / 12) ** 3
      np.testing.assert_allclose(new_slow, decay * 1 + (1 - decay) * 3, rtol=1e-6)
      assert new_fast == new_slow
    else:
      assert new_slow == 1
      assert new_fast == (1 if step == 12 else 3)
