"""Chains against their parts, and the parser of specs."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_batches import make_keys, make_noise, one_hot

from cifar_jax import errors
from cifar_jax.augment import affine, chain, registration, transforms

CHAIN = (
  "random_crop(padding=2, mode='reflect') | batch_crop(2) | random_flip | cutout(size=3)"
  "| random_affine(10, (0.1, 0.1), flip=True) | mixup(alpha=0.2) | cutmix(alpha=1)"
)
IMAGE_WISE = [
  "random_crop(2)",
  "pad_and_resize(2)",
  "random_flip",
  "alternating_flip",
  "cutout(3)",
  "random_rotation(0.1)",
  "random_zoom(0.1)",
  "random_translation(0.1, 0.1)",
  "random_shear(0.1, 0.1)",
  "random_affine(10, (0.1, 0.1), 10, 0.1, True)",
]


def make_apply(spec):
  """Return the chain as a function of (keys, batch_key, images, labels, example_keys=keys)."""
  parsed = chain.parse(spec)

  def apply(keys, batch_key, images, labels, example_keys=None):
    example_keys = keys if example_keys is None else example_keys
    return parsed(keys, batch_key, images, labels, example_keys=example_keys, epoch=1)

  return apply


@functools.cache
def compile_image_wise(spec):
  """Return the compiled chain; tests that use the same shapes share one compilation."""
  assert spec in IMAGE_WISE
  return jax.jit(make_apply(spec))


@settings(max_examples=20, deadline=None)
@given(
  spec=st.sampled_from(IMAGE_WISE),
  batch=st.integers(1, 4),
  height=st.integers(1, 40),
  width=st.integers(1, 40),
  channels=st.integers(1, 4),
)
def test_shape_and_dtype_stay(spec, batch, height, width, channels):
  shape = jax.ShapeDtypeStruct((batch, height, width, channels), jnp.float32)
  labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
  keys = make_keys(batch)
  result = jax.eval_shape(make_apply(spec), keys, jax.random.key(0), shape, labels)
  assert result == (shape, labels)


@settings(max_examples=16, deadline=None)
@given(spec=st.sampled_from(IMAGE_WISE), seed=st.integers(0, 2**32 - 1))
def test_values_stay_between_the_image_and_zero(spec, seed):
  images, keys = make_noise(4), make_keys(4, seed)
  result, _ = compile_image_wise(spec)(keys, jax.random.key(0), images, np.arange(4), keys)
  low = np.minimum(images.min(axis=(1, 2, 3)), 0) - 1e-5
  high = np.maximum(images.max(axis=(1, 2, 3)), 0) + 1e-5
  assert np.all(result >= low[:, None, None, None])
  assert np.all(result <= high[:, None, None, None])


@pytest.mark.parametrize("spec", IMAGE_WISE)
def test_an_image_does_not_depend_on_its_batch(spec):
  apply = compile_image_wise(spec)
  images, labels, batch_key = make_noise(8), np.arange(8), jax.random.key(0)
  keys, example_keys = make_keys(8), make_keys(8, 1)
  together, same_labels = apply(keys, batch_key, images, labels, example_keys)
  np.testing.assert_array_equal(same_labels, labels)
  assert np.abs(together - images).max() > 0.1
  for half in (slice(0, 4), slice(4, 8)):
    result, _ = apply(keys[half], batch_key, images[half], labels[half], example_keys[half])
    np.testing.assert_allclose(result, together[half], atol=1e-5)


def test_one_and_eight_devices_give_the_same_batch(uniform_beta):
  parsed = chain.parse(CHAIN)
  images, labels, batch_key = make_noise(16), one_hot(16), jax.random.key(5)

  def apply(keys, batch_key, images, labels, axis_name=None):
    return parsed(keys, batch_key, images, labels, axis_name, example_keys=keys, epoch=0)

  one = jax.jit(apply)(make_keys(16), batch_key, images, labels)
  eight = jax.pmap(
    functools.partial(apply, axis_name="batch"), axis_name="batch", in_axes=(0, None, 0, 0)
  )(
    make_keys(16).reshape(8, 2), batch_key, images.reshape(8, 2, 8, 10, 3), labels.reshape(8, 2, 16)
  )
  for on_one, on_eight in zip(one, eight, strict=True):
    np.testing.assert_allclose(on_eight.reshape(on_one.shape), on_one, atol=1e-5)
  assert np.count_nonzero(one[1]) > 24  # some labels are mixed


def test_several_seeds_at_once_are_the_seeds_one_by_one(uniform_beta):
  apply = jax.jit(make_apply("random_crop | random_flip | cutmix(1.0)"))
  images, labels = make_noise(6), one_hot(6)
  image_keys = jnp.stack([make_keys(6, seed) for seed in range(2)])
  batch_keys = make_keys(2, 7)
  together = jax.vmap(apply, in_axes=(0, 0, None, None))(image_keys, batch_keys, images, labels)
  for seed in range(2):
    alone = apply(image_keys[seed], batch_keys[seed], images, labels)
    np.testing.assert_allclose(together[0][seed], alone[0], atol=1e-6)
    np.testing.assert_allclose(together[1][seed], alone[1], atol=1e-6)


def test_every_position_in_a_chain_draws_separately():
  images, keys, batch_key = make_noise(200, 1, 5, 1), make_keys(200), jax.random.key(0)
  arguments = (keys, batch_key, images, np.zeros(200))
  once, _ = make_apply("random_flip")(*arguments)
  twice, _ = make_apply("random_flip | random_flip")(*arguments)
  changed = (twice != images).any(axis=(1, 2, 3))
  assert 60 < changed.sum() < 140  # the same flip twice would change nothing
  assert np.any(twice != once)


def test_a_chain_is_its_parts_in_order_and_mixes_last(uniform_beta):
  images, labels, batch_key = make_noise(4), one_hot(4), jax.random.key(3)
  spec = "mixup(0.5) | random_crop(2) | cutout(3)"
  result, mixed = make_apply(spec)(make_keys(4), batch_key, images, labels)
  fold = jax.vmap(jax.random.fold_in, (0, None))
  expected = transforms.random_crop(fold(make_keys(4), 1), images, padding=2)
  expected = transforms.cutout(fold(make_keys(4), 2), expected, size=3)
  expected = transforms.mixup(jax.random.fold_in(batch_key, 0), expected, labels, alpha=0.5)
  np.testing.assert_allclose(result, expected[0], atol=1e-6)
  np.testing.assert_allclose(mixed, expected[1], atol=1e-6)
  assert chain.parse(spec).mixes and not chain.parse("random_crop").mixes


@pytest.mark.parametrize("spec", ["", " \n "])
def test_an_empty_spec_changes_nothing(spec):
  images, labels, keys = make_noise(2), np.arange(2), make_keys(2)
  empty = chain.parse(spec)
  assert not empty.mixes
  result = empty(keys, jax.random.key(0), images, labels, example_keys=keys, epoch=0)
  assert result == (images, labels)


def test_parse_fills_in_defaults_and_takes_arguments_by_position_or_name():
  assert chain.parse(
    "random_crop | random_crop(2, 'reflect')\n| random_crop(mode='reflect')|random_zoom((-.1, .2))"
  ).calls == (
    ("random_crop", {"padding": 4, "mode": "constant"}),
    ("random_crop", {"padding": 2, "mode": "reflect"}),
    ("random_crop", {"padding": 4, "mode": "reflect"}),
    (
      "random_zoom",
      {
        "height_factor": (-0.1, 0.2),
        "width_factor": None,
        "fill_mode": "reflect",
        "fill_value": 0.0,
        "interpolation": "bilinear",
      },
    ),
  )


FACTORS = st.floats(-0.9, 1) | st.tuples(st.floats(-0.9, 1), st.floats(-0.9, 1))
MODES = st.sampled_from(["constant", "nearest", "reflect", "wrap"])
CALLS = st.one_of(
  st.tuples(st.just("random_flip"), st.fixed_dictionaries({})),
  st.tuples(
    st.just("random_crop"),
    st.fixed_dictionaries(
      {"padding": st.integers(0, 99), "mode": st.sampled_from(["constant", "reflect"])}
    ),
  ),
  st.tuples(
    st.just("cutout"),
    st.fixed_dictionaries({"size": st.integers(1, 99), "inside": st.booleans()}),
  ),
  st.tuples(st.just("mixup"), st.fixed_dictionaries({"alpha": st.floats(0.01, 9)})),
  st.tuples(
    st.just("random_zoom"),
    st.fixed_dictionaries(
      {
        "height_factor": FACTORS,
        "width_factor": st.none() | FACTORS,
        "fill_mode": MODES,
        "fill_value": st.floats(-9, 9),
        "interpolation": st.sampled_from(["nearest", "bilinear"]),
      }
    ),
  ),
  st.tuples(
    st.just("random_affine"),
    st.fixed_dictionaries(
      {
        "rotation": st.integers(0, 360),
        "shift": st.tuples(st.floats(0, 1), st.floats(0, 1)),
        "shear": st.floats(0, 45),
        "zoom": st.floats(0, 0.9) | st.tuples(st.floats(0.1, 2), st.floats(0.1, 2)),
        "flip": st.booleans(),
        "fill_mode": MODES,
        "fill_value": st.floats(-9, 9),
      }
    ),
  ),
)


@given(calls=st.lists(CALLS, max_size=5), space=st.sampled_from(["", " "]))
def test_parse_reads_back_what_was_written(calls, space):
  texts = []
  for name, arguments in calls:
    text = ", ".join(f"{argument}={value!r}" for argument, value in arguments.items())
    texts.append(f"{name}({text})")
  assert chain.parse(f"{space}|{space}".join(texts)).calls == tuple(calls)


@pytest.mark.parametrize(
  "spec",
  ["random_crop(10000)", "batch_crop(10000)", "cutout(10000)", "cutout(10000, inside=True)"],
)
def test_the_largest_numbers_of_pixels_fit_into_int32(spec):
  images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  labels = jax.ShapeDtypeStruct((2,), jnp.int32)
  assert (
    jax.eval_shape(make_apply(spec), make_keys(2), jax.random.key(0), images, labels)[0] == images
  )


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ("random_flp", "unknown transform 'random_flp'; did you mean 'random_flip'? known: alternati"),
    (
      "zzz()",
      "unknown transform 'zzz'; known: alternating_flip, batch_crop, center_crop, cutm",
    ),
    ("random_crop(pad=4)", "random_crop takes no argument 'pad'; it takes: padding, mode"),
    ("random_flip(p=1)", "random_flip takes no argument 'p'; it takes: none"),
    ("random_flip(0.5)", "random_flip has too many arguments (1); it takes: none"),
    (
      "random_crop(4, 'reflect', 1)",
      "random_crop has too many arguments (3); it takes: padding, mode",
    ),
    ("random_crop(4, padding=3)", "random_crop has 'padding' twice; write it once"),
    ("random_crop(**{'padding': 3})", "random_crop takes no argument '**'; it takes: padding"),
    (
      "random_crop(*[3])",
      "random_crop(padding=*[3]): '*[3]' is not a literal value; padding must be a",
    ),
    ("mixup", "mixup lacks 'alpha'; set it to a number above 0"),
    ("mixup(alpha=0)", "mixup(alpha=0): alpha must be a number above 0"),
    ("cutmix(-1.0)", "cutmix(alpha=-1.0): alpha must be a number above 0"),
    ("mixup(0.2, axis_name='batch')", "mixup takes no argument 'axis_name'; it takes: alpha"),
    ("mixup(1e999)", "mixup(alpha=1e309): alpha must be a number above 0"),
    (
      "random_crop(padding=-1)",
      "random_crop(padding=-1): padding must be a whole number within [0,",
    ),
    ("random_crop(padding=2000000000)", "padding must be a whole number within [0, 10000]"),
    ("batch_crop(10001)", "batch_crop(padding=10001): padding must be a whole number within [0, 1"),
    ("pad_and_resize(10001)", "padding must be a whole number within [0, 10000]"),
    ("random_crop(padding=True)", "random_crop(padding=True): padding must be a whole number"),
    ("random_crop(2.5)", "random_crop(padding=2.5): padding must be a whole number within [0, 100"),
    ("random_crop(mode='mirror')", "mode must be 'constant' or 'reflect'"),
    ("cutout(0)", "cutout(size=0): size must be a whole number within [1, 10000]"),
    ("cutout(3000000000)", "size must be a whole number within [1, 10000]"),
    ("random_rotation(10)", "factor must be a number or a pair (lower, upper) within [-1, 1]"),
    ("random_zoom(-1)", "height_factor must be a number or a pair (lower, upper) within [-0.99, 1"),
    ("random_zoom(0, (1, 2))", "width_factor must be None or a number or a pair"),
    ("random_shear(-0.1)", "x_factor must be a number or a pair (lower, upper) within [0, 1]"),
    ("random_shear(0.1, fill_mode='edge')", "fill_mode must be 'constant' or 'nearest' or 'refl"),
    ("random_affine(shift=0.1)", "shift must be a pair (height, width) within [0, 1]"),
    ("random_affine(zoom=(1, 2, 3))", "zoom must be z within [0, 0.99], or a pair"),
    ("random_affine(flip='yes')", "flip must be True or False"),
    (
      "cutout(size=n)",
      "cutout(size=n): 'n' is not a literal value; size must be a whole number within [1, 10000]",
    ),
    ("cutout(size=__import__('os'))", "is not a literal value"),
    ("random_flip() |", "cannot read 'random_flip() |'; write, for example"),
    ("random_flip; cutout", "cannot read 'random_flip; cutout'"),
    ("random_flip + cutout", "cannot read 'random_flip + cutout'; write name(argument=value)"),
    ("os.system('ls')", "cannot read \"os.system('ls')\"; write name(argument=value)"),
    ("'random_flip'", "cannot read \"'random_flip'\"; write name(argument=value)"),
    ("random_flip\0", "cannot read"),
  ],
)
def test_bad_specs_raise_one_line(spec, message):
  with pytest.raises(errors.UserError, match=re.escape(message)) as error:
    chain.parse(spec)
  assert str(error.value).startswith("augment: ")
  assert "\n" not in str(error.value)


def test_every_argument_of_every_transform_is_checked_and_its_default_accepted():
  for name, transform in registration.TRANSFORMS.items():
    parameters = inspect.signature(transform.function).parameters.values()
    arguments = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"axis_name"}
    assert arguments == set(transform.checks), name
    for argument, parameter in transform.parameters.items():
      if parameter.default is not parameter.empty:
        assert transform.checks[argument].accepts(parameter.default), (name, argument)
  warps = {name for name in vars(affine) if name.startswith("random_")}
  assert len(warps) == 5 and warps <= set(registration.TRANSFORMS)
