"""Flips, crops, holes and mixing against NumPy, chains against their parts, and specs."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_jax import errors
from cifar_jax.augment import affine, chain, transforms

CHAIN = (
  "random_crop(padding=2, mode='reflect') | random_flip | cutout(size=3)"
  "| random_affine(10, (0.1, 0.1), flip=True) | mixup(alpha=0.2) | cutmix(alpha=1)"
)
IMAGE_WISE = [
  "random_crop(2)",
  "random_flip",
  "alternating_flip",
  "cutout(3)",
  "random_rotation(0.1)",
  "random_zoom(0.1)",
  "random_translation(0.1, 0.1)",
  "random_shear(0.1, 0.1)",
  "random_affine(10, (0.1, 0.1), 10, 0.1, True)",
]


def keys(number, seed=0):
  return jax.random.split(jax.random.key(seed), number)


def noise(batch, height=8, width=10, channels=3):
  shape = (batch, height, width, channels)
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def one_hot(batch):
  """As many classes as images: a mixed label tells which images went into it."""
  return np.eye(batch, dtype=np.float32)


@pytest.fixture
def quick_beta(monkeypatch):
  """Beta(1, 1) for every alpha, where lambda is not the subject: Beta takes seconds to compile."""
  monkeypatch.setattr(jax.random, "beta", lambda key, a, b: jax.random.uniform(key))


def test_normalize():
  images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 1, 3, 3) * 14
  mean, std = [0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]
  result = transforms.normalize(images, mean, std)
  assert result.dtype == jnp.float32
  np.testing.assert_allclose(result, (images / 255 - mean) / std, atol=1e-6)
  np.testing.assert_allclose(
    transforms.normalize(images, [0] * 3, [1] * 3), images / 255, atol=1e-7
  )


def test_random_flip_mirrors_columns_half_the_time():
  images = noise(1000, 2, 3, 1)
  result = np.asarray(transforms.random_flip(keys(1000), images))
  flipped = (result == images[:, :, ::-1]).all(axis=(1, 2, 3))
  assert np.all(flipped != (result == images).all(axis=(1, 2, 3)))
  assert scipy.stats.binomtest(int(flipped.sum()), 1000).pvalue > 1e-3


def test_alternating_flip_mirrors_a_half_and_then_the_others():
  images = noise(1000, 2, 3, 1)

  def flipped(epoch, seed=0):
    result = np.asarray(transforms.alternating_flip(keys(1000, seed), epoch, images))
    found = (result == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert np.all(found != (result == images).all(axis=(1, 2, 3)))
    return found

  first = flipped(0)
  assert scipy.stats.binomtest(int(first.sum()), 1000).pvalue > 1e-3
  for epoch in (1, 2, 7):
    np.testing.assert_array_equal(flipped(jnp.int32(epoch)), first ^ (epoch % 2 == 1))
  assert 400 < (flipped(0, seed=1) != first).sum() < 600


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_random_crop_is_a_uniformly_drawn_window_of_the_padded_image(mode):
  images = noise(2500, 4, 5, 1)
  result = np.asarray(transforms.random_crop(keys(2500), images, padding=2, mode=mode))
  padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode=mode)
  windows = [padded[:, y : y + 4, x : x + 5] for y in range(5) for x in range(5)]
  matches = np.array([(result == window).all(axis=(1, 2, 3)) for window in windows])
  assert np.all(matches.sum(axis=0) == 1)
  assert scipy.stats.chisquare(matches.sum(axis=1)).pvalue > 1e-3


def test_random_crop_defaults_to_four_zeros():
  result = transforms.random_crop(keys(200), np.ones((200, 6, 6, 1), np.float32))
  rows = np.asarray(result.max(axis=(2, 3)).sum(axis=1))
  assert set(rows) == {2, 3, 4, 5, 6}
  assert set(np.unique(result)) == {0, 1}


@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_cutout_zeroes_one_square_clipped_at_the_border(size):
  height, width = 9, 12
  images = np.abs(noise(1000, height, width, 2)) + 1
  result = np.asarray(transforms.cutout(keys(1000), images, size=size))
  holes = np.zeros((height, width, height, width), bool)  # for every centre
  for y in range(height):
    for x in range(width):
      top, left = y - size // 2, x - size // 2
      holes[y, x, max(top, 0) : top + size, max(left, 0) : left + size] = True
  expected = {hole.tobytes() for hole in holes.reshape(-1, height, width)}
  found = {hole.tobytes() for hole in (result == 0).all(axis=-1)}
  assert found == expected
  np.testing.assert_array_equal(result, np.where((result == 0).all(-1)[..., None], 0, images))


@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_cutout_inside_is_one_whole_square_anywhere(size):
  height, width = 9, 12
  images = np.abs(noise(1000, height, width, 2)) + 1
  result = np.asarray(transforms.cutout(keys(1000), images, size=size, inside=True))
  tall, wide = min(size, height), min(size, width)  # one too large takes all there is
  holes = np.zeros((height - tall + 1, width - wide + 1, height, width), bool)
  for y in range(height - tall + 1):
    for x in range(width - wide + 1):
      holes[y, x, y : y + tall, x : x + wide] = True
  expected = {hole.tobytes() for hole in holes.reshape(-1, height, width)}
  found = {hole.tobytes() for hole in (result == 0).all(axis=-1)}
  assert found == expected


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
  result = jax.eval_shape(
    chain.parse(spec), keys(batch), jax.random.key(0), shape, labels, None, keys(batch), 1
  )
  assert result == (shape, labels)


@settings(max_examples=16, deadline=None)
@given(spec=st.sampled_from(IMAGE_WISE), seed=st.integers(0, 2**32 - 1))
def test_values_stay_between_the_image_and_zero(spec, seed):
  images = noise(4)
  pipeline = chain.parse(spec)
  result, _ = pipeline(keys(4, seed), jax.random.key(0), images, np.zeros(4), None, keys(4, seed))
  low = np.minimum(images.min(axis=(1, 2, 3)), 0) - 1e-5
  high = np.maximum(images.max(axis=(1, 2, 3)), 0) + 1e-5
  assert np.all(result >= low[:, None, None, None])
  assert np.all(result <= high[:, None, None, None])


@pytest.mark.parametrize("spec", IMAGE_WISE)
def test_an_image_does_not_depend_on_its_batch(spec):
  pipeline = jax.jit(chain.parse(spec))
  images, labels, batch_key = noise(8), np.arange(8), jax.random.key(0)
  whole, same_labels = pipeline(keys(8), batch_key, images, labels, None, keys(8, 1), 1)
  np.testing.assert_array_equal(same_labels, labels)
  assert np.abs(whole - images).max() > 0.1
  for part in (slice(0, 3), slice(3, 8)):
    own = (None, keys(8, 1)[part], 1)
    result, _ = pipeline(keys(8)[part], batch_key, images[part], labels[part], *own)
    np.testing.assert_allclose(result, whole[part], atol=1e-5)


def test_one_and_eight_devices_give_the_same_batch(quick_beta):
  pipeline = chain.parse(CHAIN)
  images, labels, batch_key = noise(16), one_hot(16), jax.random.key(5)
  one = jax.jit(pipeline)(keys(16), batch_key, images, labels)
  shared = jax.pmap(
    lambda *arguments: pipeline(*arguments, axis_name="batch"),
    axis_name="batch",
    in_axes=(0, None, 0, 0),
  )(keys(16).reshape(8, 2), batch_key, images.reshape(8, 2, 8, 10, 3), labels.reshape(8, 2, 16))
  for single, spread in zip(one, shared, strict=True):
    np.testing.assert_allclose(spread.reshape(single.shape), single, atol=1e-5)
  assert np.count_nonzero(one[1]) > 24  # mixed indeed


def test_several_seeds_at_once_are_the_seeds_one_by_one(quick_beta):
  pipeline = jax.jit(chain.parse("random_crop | random_flip | cutmix(1.0)"))
  images, labels = noise(6), one_hot(6)
  image_keys = jnp.stack([keys(6, seed) for seed in range(2)])
  batch_keys = keys(2, 7)
  together = jax.vmap(pipeline, in_axes=(0, 0, None, None))(image_keys, batch_keys, images, labels)
  for seed in range(2):
    alone = pipeline(image_keys[seed], batch_keys[seed], images, labels)
    np.testing.assert_allclose(together[0][seed], alone[0], atol=1e-6)
    np.testing.assert_allclose(together[1][seed], alone[1], atol=1e-6)


def test_mixup_blends_images_and_labels_with_one_partner_each(quick_beta):
  images = noise(6)
  for seed in range(5):
    result, labels = transforms.mixup(jax.random.key(seed), images, one_hot(6), alpha=1.0)
    labels = np.asarray(labels)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=0), 1, atol=1e-5)  # a permutation
    np.testing.assert_allclose(result, np.einsum("ij,jhwc->ihwc", labels, images), atol=1e-5)
    own = np.diag(labels)
    assert np.unique(own[own < 1].round(5)).size <= 1  # one lambda; 1 where the partner is itself


def test_mixup_draws_lambda_from_beta():
  images, labels = np.zeros((2, 1, 1, 1), np.float32), one_hot(2)
  mix = jax.vmap(
    lambda key, alpha: transforms.mixup(key, images, labels, alpha=alpha)[1], (0, None)
  )
  mix = jax.jit(mix)
  for alpha in (0.2, 1.0, 8.0):
    lam = np.asarray(mix(keys(3000), alpha))[:, 0, 0]
    mixed = lam < 1  # half of the permutations of two give every image itself as partner
    assert scipy.stats.kstest(lam[mixed], scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert 1350 < mixed.sum() < 1650


def test_cutmix_pastes_one_box_and_mixes_labels_by_its_area(quick_beta):
  height, width, batch = 8, 10, 6
  images = noise(batch, height, width)
  clipped = 0
  for seed in range(12):
    key = jax.random.key(seed)
    result, labels = transforms.cutmix(key, images, one_hot(batch), alpha=1.0)
    result, labels = np.asarray(result), np.asarray(labels)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=0), 1, atol=1e-6)
    pasted = (result != images).all(axis=-1)
    box = pasted.any(axis=0)
    rows, columns = np.flatnonzero(box.any(axis=1)), np.flatnonzero(box.any(axis=0))
    np.testing.assert_array_equal(box, np.outer(box.any(axis=1), box.any(axis=0)))
    assert np.all(np.diff(rows) == 1) and np.all(np.diff(columns) == 1)
    for i in range(batch):
      partner = np.argmax(np.where(np.arange(batch) == i, -1, labels[i]))
      if labels[i, i] == 1:
        np.testing.assert_array_equal(result[i], images[i])
        continue
      np.testing.assert_allclose(labels[i, i], 1 - box.mean(), atol=1e-6)
      np.testing.assert_array_equal(result[i], np.where(box[..., None], images[partner], images[i]))
    side = np.sqrt(1 - jax.random.beta(jax.random.split(key, 3)[0], 1.0, 1.0))
    sides = int(side * height), int(side * width)
    assert len(rows) <= sides[0] and len(columns) <= sides[1]
    at_border = {0, height - 1} & set(rows) or {0, width - 1} & set(columns)
    assert at_border or (len(rows), len(columns)) == sides
    clipped += (len(rows), len(columns)) != sides
  assert 0 < clipped < 12


def test_every_place_in_a_chain_has_randomness_of_its_own():
  images = noise(200, 1, 5, 1)
  none = np.zeros(200)
  once, _ = chain.parse("random_flip")(keys(200), jax.random.key(0), images, none)
  twice, _ = chain.parse("random_flip | random_flip")(keys(200), jax.random.key(0), images, none)
  changed = (twice != images).any(axis=(1, 2, 3))
  assert 60 < changed.sum() < 140  # the same flip twice would change nothing
  assert np.any(twice != once)


def test_a_chain_is_its_parts_in_order_and_mixes_last(quick_beta):
  images, labels, batch_key = noise(4), one_hot(4), jax.random.key(3)
  pipeline = chain.parse("mixup(0.5) | random_crop(2) | cutout(3)")
  result, mixed = pipeline(keys(4), batch_key, images, labels)
  fold = jax.vmap(jax.random.fold_in, (0, None))
  expected = transforms.random_crop(fold(keys(4), 1), images, padding=2)
  expected = transforms.cutout(fold(keys(4), 2), expected, size=3)
  expected = transforms.mixup(jax.random.fold_in(batch_key, 0), expected, labels, alpha=0.5)
  np.testing.assert_allclose(result, expected[0], atol=1e-6)
  np.testing.assert_allclose(mixed, expected[1], atol=1e-6)
  assert pipeline.mixes and not chain.parse("random_crop").mixes


def test_an_empty_spec_changes_nothing():
  images, labels = noise(2), np.arange(2)
  for spec in ("", " \n "):
    pipeline = chain.parse(spec)
    assert not pipeline.mixes
    assert pipeline(keys(2), jax.random.key(0), images, labels) == (images, labels)


def test_parse_fills_in_defaults_and_takes_arguments_by_place_or_name():
  assert chain.parse(
    "random_crop | random_crop(2, 'reflect')\n| random_crop(mode='reflect')|random_zoom((-.1, .2))"
  ).steps == (
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


factors = st.floats(-0.9, 1) | st.tuples(st.floats(-0.9, 1), st.floats(-0.9, 1))
modes = st.sampled_from(["constant", "nearest", "reflect", "wrap"])
steps = st.one_of(
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
        "height_factor": factors,
        "width_factor": st.none() | factors,
        "fill_mode": modes,
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
        "fill_mode": modes,
        "fill_value": st.floats(-9, 9),
      }
    ),
  ),
)


@given(chosen=st.lists(steps, max_size=5), space=st.sampled_from(["", " "]))
def test_parse_reads_back_what_was_written(chosen, space):
  calls = []
  for name, arguments in chosen:
    written = ", ".join(f"{argument}={value!r}" for argument, value in arguments.items())
    calls.append(f"{name}({written})")
  assert chain.parse(f"{space}|{space}".join(calls)).steps == tuple(chosen)


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ("random_flp", "unknown transform 'random_flp'; did you mean 'random_flip'? known: random_fli"),
    ("zzz()", "unknown transform 'zzz'; known: random_flip, alternating_flip, random"),
    ("random_crop(pad=4)", "random_crop takes no argument 'pad'; it takes: padding, mode"),
    ("random_flip(p=1)", "random_flip takes no argument 'p'; it takes: none"),
    ("random_flip(0.5)", "random_flip is given 1 arguments; it takes: none"),
    ("random_crop(4, 'reflect', 1)", "random_crop is given 3 arguments; it takes: padding, mode"),
    ("random_crop(4, padding=3)", "random_crop is given 'padding' twice"),
    ("random_crop(**{'padding': 3})", "random_crop takes no argument '**'; it takes: padding"),
    ("random_crop(*[3])", "random_crop(padding=*[3]): '*[3]' is not a literal value"),
    ("mixup", "mixup needs 'alpha': a number above 0"),
    ("mixup(alpha=0)", "mixup(alpha=0): alpha must be a number above 0"),
    ("cutmix(-1.0)", "cutmix(alpha=-1.0): alpha must be a number above 0"),
    ("mixup(0.2, axis_name='batch')", "mixup takes no argument 'axis_name'; it takes: alpha"),
    ("mixup(1e999)", "mixup(alpha=1e309): alpha must be a number above 0"),
    ("random_crop(padding=-1)", "random_crop(padding=-1): padding must be a whole number from 0"),
    ("random_crop(padding=True)", "random_crop(padding=True): padding must be a whole number"),
    ("random_crop(2.5)", "random_crop(padding=2.5): padding must be a whole number from 0"),
    ("random_crop(mode='mirror')", "mode must be 'constant' or 'reflect'"),
    ("cutout(0)", "cutout(size=0): size must be a whole number from 1"),
    ("random_rotation(10)", "factor must be a number or a pair (lower, upper) within [-1, 1]"),
    ("random_zoom(-1)", "height_factor must be a number or a pair (lower, upper) within [-0.99, 1"),
    ("random_zoom(0, (1, 2))", "width_factor must be None or a number or a pair"),
    ("random_shear(-0.1)", "x_factor must be a number or a pair (lower, upper) within [0, 1]"),
    ("random_shear(0.1, fill_mode='edge')", "fill_mode must be 'constant' or 'nearest' or 'refl"),
    ("random_affine(shift=0.1)", "shift must be a pair (height, width) within [0, 1]"),
    ("random_affine(zoom=(1, 2, 3))", "zoom must be z within [0, 0.99], or a pair"),
    ("random_affine(flip='yes')", "flip must be True or False"),
    ("cutout(size=n)", "cutout(size=n): 'n' is not a literal value"),
    ("cutout(size=__import__('os'))", "is not a literal value"),
    ("random_flip() |", "cannot read 'random_flip() |'; write for example"),
    ("random_flip; cutout", "cannot read 'random_flip; cutout'"),
    ("random_flip + cutout", "cannot read 'random_flip + cutout'; write name(argument=value)"),
    ("os.system('ls')", "cannot read \"os.system('ls')\"; write name(argument=value)"),
    ("'random_flip'", "cannot read \"'random_flip'\"; write name(argument=value)"),
    ("random_flip\0", "cannot read"),
  ],
)
def test_parse_refuses_in_one_line(spec, message):
  with pytest.raises(errors.UserError, match=re.escape(message)) as error:
    chain.parse(spec)
  assert str(error.value).startswith("augment: ")
  assert "\n" not in str(error.value)


def test_every_argument_of_every_transform_is_checked_and_its_default_accepted():
  for name, transform in transforms.TRANSFORMS.items():
    parameters = inspect.signature(transform.function).parameters.values()
    arguments = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"axis_name"}
    assert arguments == set(transform.checks), name
    for argument, parameter in transform.parameters().items():
      if parameter.default is not parameter.empty:
        assert transform.checks[argument].accepts(parameter.default), (name, argument)
  assert {name for name in vars(affine) if name.startswith("random_")} <= set(transforms.TRANSFORMS)
