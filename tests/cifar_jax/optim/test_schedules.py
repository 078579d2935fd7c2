"""Schedules against those of Keras and optax, step by step, and properties of all schedules."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule_values import EPOCH, STEPS, TOTAL, assert_close, compute_keras_rates, compute_rates

from cifar_jax import errors
from cifar_jax.optim import schedules


def test_constant():
  assert_close(compute_rates("constant"), np.full(TOTAL + 1, 0.1))


@pytest.mark.parametrize("staircase", [False, True])
def test_exponential_is_keras(keras_optimizers, staircase):
  keras = keras_optimizers.schedules.ExponentialDecay(0.1, 1000, 0.5, staircase=staircase)
  ours = compute_rates("exponential", decay_steps=1000, rate=0.5, staircase=staircase)
  assert_close(ours, compute_keras_rates(keras))
  assert_close(
    compute_rates("exponential", decay_epochs=2, rate=0.5, staircase=staircase),
    compute_rates("exponential", decay_steps=2 * EPOCH, rate=0.5, staircase=staircase),
  )


@pytest.mark.parametrize("staircase", [False, True])
def test_inverse_time_is_keras(keras_optimizers, staircase):
  keras = keras_optimizers.schedules.InverseTimeDecay(0.1, 100, 0.5, staircase=staircase)
  ours = compute_rates("inverse_time", decay_steps=100, rate=0.5, staircase=staircase)
  assert_close(ours, compute_keras_rates(keras))


def test_inverse_time_is_the_decay_argument_of_report_002():
  steps = np.array([0, 1, 27_345])  # 35 epochs of 50,000 examples by 64
  ours = compute_rates("inverse_time", 1e-4, decay_steps=1, rate=1e-6, steps=steps)
  assert_close(ours, 1e-4 * (1 / (1 + 1e-6 * steps)))


@pytest.mark.parametrize("warmup_epochs,initial,final", [(2.5, 0.0, 0.0), (1, 0.2, 0.01)])
def test_warmup_cosine_is_keras(keras_optimizers, warmup_epochs, initial, final):
  warmup = round(warmup_epochs * EPOCH)
  keras = keras_optimizers.schedules.CosineDecay(
    0.1 * initial, TOTAL - warmup, alpha=final, warmup_target=0.1, warmup_steps=warmup
  )
  ours = compute_rates("warmup_cosine", warmup_epochs=warmup_epochs, initial=initial, final=final)
  assert_close(ours, compute_keras_rates(keras), atol=1e-7)
  optaxs = optax.warmup_cosine_decay_schedule(0.1 * initial, 0.1, warmup, TOTAL, 0.1 * final)
  assert_close(ours, jax.vmap(optaxs)(STEPS), atol=1e-7)


def test_warmup_cosine_without_warmup_is_keras(keras_optimizers):
  keras = keras_optimizers.schedules.CosineDecay(0.1, TOTAL)
  assert_close(compute_rates("warmup_cosine"), compute_keras_rates(keras), atol=1e-7)


def test_step_is_keras_one_step_earlier(keras_optimizers):
  # Keras keeps the old value at the boundary itself: `step <= boundary`.
  keras = keras_optimizers.schedules.PiecewiseConstantDecay(
    [3 * EPOCH - 1, 6 * EPOCH - 1], [0.1, 0.02, 0.004]
  )
  ours = compute_rates("step", boundaries=(3, 6), factor=0.2)
  around = [b * EPOCH + d for b in (3, 6) for d in (-2, -1, 0, 1)]
  assert_close(ours[around], [float(keras(jnp.asarray(s))) for s in around])


def test_step_defaults_to_half_and_three_quarters():
  ours = compute_rates("step")
  assert np.flatnonzero(np.diff(ours)).tolist() == [TOTAL // 2 - 1, round(0.75 * TOTAL) - 1]
  assert_close(ours[-1], 0.001)


def test_linear_is_interpolation_and_keras(keras_optimizers):
  ours = compute_rates("linear", warmup_epochs=2.3, initial=0.2, final=0.07)
  top = round(2.3 * EPOCH)
  assert_close(ours, np.interp(STEPS, [0, top, TOTAL], [0.02, 0.1, 0.007]), atol=1e-8)
  part = compute_rates("linear", pct_start=(top + 0.5) / TOTAL, initial=0.2, final=0.07)
  assert_close(part, ours)
  keras = keras_optimizers.schedules.PolynomialDecay(0.1, TOTAL, 0.01)
  assert_close(compute_rates("linear", final=0.1), compute_keras_rates(keras), atol=1e-8)


@pytest.mark.parametrize("name", ["linear", "warmup_cosine"])
def test_a_run_shorter_than_the_warmup_ends_on_the_ramp(name):
  longer = compute_rates(name, warmup_epochs=5)
  short = compute_rates(name, warmup_epochs=5, total_steps=EPOCH, steps=STEPS[:EPOCH])
  assert_close(short, longer[:EPOCH])
  assert_close(short, 0.1 * STEPS[:EPOCH] / (5 * EPOCH), atol=1e-8)


@pytest.mark.parametrize(
  ("decay", "factors"),
  [
    ("1-sqrt", [1.0, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5]),
    ("cosine", [1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
    ("linear", [1.0, 0.75, 0.5, 0.25]),
  ],
)
def test_warmup_stable_decay_by_hand(decay, factors):
  # Two epochs of four steps up, three at the rate, one down to a tenth.
  arguments = {"warmup_epochs": 2, "decay_epochs": 1, "decay": decay, "final": 0.1}
  rates = compute_rates("warmup_stable_decay", 0.4, 4, 24, np.arange(26), **arguments)
  assert_close(rates[:8], 0.05 * np.arange(8), atol=1e-8)
  np.testing.assert_array_equal(rates[8:21], np.float32(0.4))
  assert_close(rates[20:24], 0.4 * (0.1 + 0.9 * np.array(factors)))
  assert_close(rates[24:], [0.04, 0.04])


@settings(max_examples=40, deadline=None)
@given(
  warmup_epochs=st.floats(0, 4),
  decay_epochs=st.one_of(st.none(), st.floats(0, 5)),
  decay=st.sampled_from(["1-sqrt", "cosine", "linear"]),
  final=st.floats(0, 1),
  more_epochs=st.integers(1, 30),
)
def test_the_past_of_warmup_stable_decay_does_not_depend_on_the_length(
  warmup_epochs, decay_epochs, decay, final, more_epochs
):
  arguments = {"warmup_epochs": warmup_epochs, "decay": decay, "final": final}
  arguments["decay_epochs"] = decay_epochs
  rates, longer = (
    compute_rates("warmup_stable_decay", 1.0, 20, total, np.arange(200), **arguments)
    for total in (180, 180 + 20 * more_epochs)
  )
  num_steps = 36 if decay_epochs is None else round(20 * decay_epochs)
  start = 180 - num_steps
  np.testing.assert_array_equal(rates[: start + 1], longer[: start + 1])
  assert np.diff(rates[start:]).max(initial=0) <= 1e-6
  assert_close(rates[180:], final if num_steps else 1.0, atol=1e-6)


ALL = [
  {"name": "constant"},
  {"name": "step", "boundaries": (1, 2.5)},
  {"name": "exponential"},
  {"name": "inverse_time", "rate": 0.1},
  {"name": "linear", "warmup_epochs": 0.5, "final": 0.1},
  {"name": "warmup_cosine", "warmup_epochs": 1.5},
  {"name": "cosine_restarts", "first_decay_steps": 9, "m_mul": 0.9},
  {"name": "cyclical", "step_size": 7, "mode": "triangular2"},
  {"name": "cyclical", "mode": "exp_range"},
  {"name": "one_cycle"},
  {"name": "one_cycle", "anneal": "linear", "pct_start": 0.01},
  {"name": "warmup_stable_decay", "warmup_epochs": 0.5},
]


@settings(max_examples=60, deadline=None)
@given(
  config=st.sampled_from(ALL),
  learning_rate=st.floats(1e-5, 10),
  steps_per_epoch=st.integers(1, 60),
  epochs=st.integers(1, 30),
)
def test_between_zero_and_learning_rate(config, learning_rate, steps_per_epoch, epochs):
  steps = np.arange(1800)  # one shape for all runs; steps may pass the end of the run
  run = {"steps_per_epoch": steps_per_epoch, "total_steps": steps_per_epoch * epochs}
  rates = compute_rates(**config, learning_rate=learning_rate, **run, steps=steps)
  assert rates.dtype == np.float32
  assert np.all(np.isfinite(rates))
  assert rates.min() >= 0
  assert rates.max() <= learning_rate * (1 + 1e-5)


@settings(max_examples=30, deadline=None)
@given(
  name=st.sampled_from(["linear", "warmup_cosine"]),
  warmup_epochs=st.floats(0, 10),
  initial=st.floats(0, 1),
  final=st.floats(0, 1),
)
def test_warmup_is_continuous_and_has_the_right_ends(name, warmup_epochs, initial, final):
  arguments = {"warmup_epochs": warmup_epochs, "initial": initial, "final": final}
  rates = compute_rates(name, 1.0, 20, 400, np.arange(401), **arguments)
  warmup = round(warmup_epochs * 20)
  steepest = max(1 / max(warmup, 1), np.pi / 2 / (400 - warmup))
  assert np.abs(np.diff(rates)).max() <= steepest + 1e-6
  assert_close(rates[0], initial if warmup else 1.0, atol=1e-7)
  assert_close(rates[warmup], 1.0)
  assert_close(rates[400], final, atol=1e-6)


@pytest.mark.parametrize("config", ALL, ids=lambda c: c["name"])
def test_same_for_python_and_traced_steps_and_rates(config):
  def rate(learning_rate, step):
    return schedules.create(config, learning_rate, 10, 50)(step)

  eager = [rate(0.3, step) for step in (0, 7, 49)]
  assert all(r.dtype == jnp.float32 and r.shape == () for r in eager)
  traced = jax.jit(jax.vmap(rate))(jnp.full(3, 0.3), jnp.array([0, 7, 49]))
  assert_close(traced, eager)
  swept = jax.vmap(rate, in_axes=(0, None))(jnp.array([0.3, 0.6]), 7)
  assert_close(swept[1], 2 * swept[0])


@pytest.mark.parametrize(
  "config,rates",
  [
    ({"name": "step", "boundaries": (2, 1e30)}, [0.1, 0.01]),
    ({"name": "step", "boundaries": (3e8, 3e38)}, [0.1, 0.1]),
    ({"name": "step", "boundaries": (1e30, 2e30, 3e30), "factor": 2**31 - 1}, [0.1, 0.1]),
    ({"name": "warmup_cosine", "warmup_epochs": 1e30, "initial": 0.5}, [0.05, 0.05]),
    ({"name": "linear", "warmup_epochs": 2**31 - 1, "initial": 0.5}, [0.05, 0.05]),
    ({"name": "exponential", "decay_epochs": 2**31 - 1}, [0.1, 0.1]),
    ({"name": "exponential", "decay_epochs": 3e38}, [0.1, 0.1]),
    ({"name": "cyclical", "step_size": 2**31 - 1}, [0.025, 0.025]),
    ({"name": "cyclical", "step_size_epochs": 3e38}, [0.025, 0.025]),
  ],
  ids=str,
)
def test_a_time_beyond_int32_is_never_reached(config, rates):
  assert_close(compute_rates(**config, steps=np.array([0, TOTAL])), rates, atol=1e-6)


@pytest.mark.parametrize(
  "num_epochs,last_epoch,steps",
  [(1, 1.0, 351), (1, 0.5, 176), (10, 0.9, 3475), (1, 1e-9, 1), (10, 1e-9, 9 * 351 + 1)],
)
def test_the_last_epoch_has_at_least_one_step(num_epochs, last_epoch, steps):
  config = ml_collections.ConfigDict({"num_epochs": num_epochs, "last_epoch": last_epoch})
  assert schedules.count_steps(config, 351) == steps


def test_a_share_of_an_epoch_is_not_rounded_up_by_float_error():
  config = ml_collections.ConfigDict({"num_epochs": 2, "last_epoch": 0.07})
  assert schedules.count_steps(config, 100) == 107


def test_none_is_the_default():
  named = {"name": "exponential", "decay_steps": None, "rate": None, "staircase": None}
  np.testing.assert_array_equal(compute_rates(**named), compute_rates("exponential"))


@pytest.mark.parametrize(
  "config,message",
  [
    ({"name": "cosin"}, "schedule.name: unknown schedule 'cosin'; known: constant, cosine_re"),
    (
      {"name": "warmup_cosin"},
      "schedule.name: unknown schedule 'warmup_cosin'; did you mean 'warmup_cosine'? known: const",
    ),
    ({}, "schedule.name: missing; known: constant"),
    (
      {"name": "warmup_cosine", "warmpu_epochs": 5},
      "schedule.warmpu_epochs: 'warmup_cosine' takes no such argument; "
      "it takes: warmup_epochs, initial, final",
    ),
    ({"name": "constant", "rate": 1}, "schedule.rate: 'constant' takes no such argument; it takes"),
    ({"name": "warmup_cosine", "warmup_epochs": -1}, "schedule.warmup_epochs: must be a number >="),
    ({"name": "warmup_cosine", "warmup_epochs": "5"}, "schedule.warmup_epochs: must be a number"),
    ({"name": "linear", "final": -0.1}, "schedule.final: must be a fraction"),
    ({"name": "linear", "pct_start": 1}, "schedule.pct_start: must be a number in [0, 1), got 1"),
    (
      {"name": "linear", "pct_start": 0.1, "warmup_epochs": 1},
      "schedule.pct_start: warmup_epochs is set too; set one and leave the other None",
    ),
    ({"name": "linear", "initial": float("nan")}, "schedule.initial: must be a fraction"),
    ({"name": "step", "boundaries": ()}, "schedule.boundaries: must be ascending epochs"),
    ({"name": "step", "boundaries": (100, 50)}, "schedule.boundaries: must be ascending epochs"),
    ({"name": "step", "boundaries": (0, 50)}, "schedule.boundaries: must be ascending epochs"),
    ({"name": "step", "boundaries": "abc"}, "schedule.boundaries: must be ascending epochs"),
    ({"name": "step", "boundaries": 5}, "schedule.boundaries: must be ascending epochs"),
    ({"name": "step", "factor": 0}, "schedule.factor: must be a number > 0 and, with 2 bound"),
    ({"name": "step", "factor": 1e30}, "schedule.factor: must be a number > 0 and, with 2 bound"),
    ({"name": "exponential", "rate": 0}, "schedule.rate: must be a number > 0"),
    ({"name": "exponential", "staircase": "no"}, "schedule.staircase: must be True or False"),
    ({"name": "exponential", "decay_epochs": 0}, "schedule.decay_epochs: must be a number > 0"),
    (
      {"name": "exponential", "decay_epochs": 1, "decay_steps": 9},
      "schedule.decay_steps: decay_epochs is set too; set one and leave the other None",
    ),
    ({"name": "inverse_time", "rate": -1}, "schedule.rate: must be a number >= 0"),
    ({"name": "inverse_time", "decay_steps": 0}, "schedule.decay_steps: must be a number > 0"),
    ({"name": "cosine_restarts", "t_mul": 0.5}, "schedule.t_mul: must be a number >= 1"),
    ({"name": "cosine_restarts", "m_mul": 0}, "schedule.m_mul: must be a number > 0"),
    (
      {"name": "cosine_restarts", "m_mul": 1e30},
      "schedule.m_mul: 1e+30 makes the rate of the last",
    ),
    ({"name": "cyclical", "mode": {}}, "schedule.mode: "),
    ({"name": "one_cycle", "anneal": ["cos"]}, "schedule.anneal: "),
    ({"name": "cosine_restarts", "alpha": -1}, "schedule.alpha: must be a fraction"),
    (
      {"name": "cosine_restarts", "first_decay_steps": 0.5},
      "schedule.first_decay_steps: must be a whole number of steps > 0, got 0.5",
    ),
    ({"name": "cyclical", "mode": "square"}, "schedule.mode: must be one of triangular, tri"),
    ({"name": "cyclical", "step_size": 0}, "schedule.step_size: must be a number > 0"),
    ({"name": "cyclical", "gamma": 1.5}, "schedule.gamma: must be a number in (0, 1]"),
    ({"name": "cyclical", "base_lr": 0.2}, "schedule.base_lr: must not exceed optimizer.learning"),
    ({"name": "one_cycle", "anneal": "cos"}, "schedule.anneal: must be one of cosine, linear"),
    ({"name": "one_cycle", "pct_start": 1}, "schedule.pct_start: must be a number in (0, 1)"),
    ({"name": "one_cycle", "div_factor": 0}, "schedule.div_factor: must be a number > 1e-30"),
    (
      {"name": "one_cycle", "div_factor": 1e-320, "final_div_factor": 1e-320},
      "schedule.div_factor: must be a number > 1e-30, got 1e-320",
    ),
    ({"name": "warmup_stable_decay", "decay": ["linear"]}, "schedule.decay: must be one of 1-sq"),
    ({"name": "warmup_stable_decay", "decay_epochs": -1}, "schedule.decay_epochs: must be a numb"),
    (
      {"name": "warmup_stable_decay", "decay_epochs": 6, "warmup_epochs": 5},
      "schedule.decay_epochs: 60 steps of decay and 50 of warm-up are more than the 100 of the run",
    ),
    ({"name": "warmup_stable_decay", "decay_epochs": 1e30}, "schedule.decay_epochs: 2147483647 st"),
  ],
)
def test_bad_values_name_the_field(config, message):
  with pytest.raises(errors.UserError) as raised:
    schedules.create(config, 0.1, 10, 100)
  assert str(raised.value).startswith(message)
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize("learning_rate", [0, -0.1, float("inf"), "0.1", True])
def test_bad_learning_rate(learning_rate):
  with pytest.raises(errors.UserError, match=r"^optimizer\.learning_rate: must be a number > 0"):
    schedules.create({"name": "constant"}, learning_rate, 10, 100)
