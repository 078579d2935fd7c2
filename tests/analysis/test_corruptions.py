"""Corruptions against colorsys, SciPy and Pillow, image by image, and against their definitions.

By hand they were compared with the code of Hendrycks & Dietterich on 200 test images of CIFAR-10:
all that draw nothing agree to 1 of 255, and those that draw noise have its deviation to 3 %.
"""

import colorsys
import io
import math

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from analysis.evaluate import corruptions, distortions


@pytest.fixture(scope="module")
def images():
  """Smooth coloured images with some black, grey and saturated pixels, [6, 32, 32, 3] uint8."""
  noise = np.random.default_rng(0).normal(0.5, 1.5, (6, 32, 32, 3))
  smooth = scipy.ndimage.gaussian_filter(noise, (0, 2, 2, 0)) * 3 - 1
  values = (np.clip(smooth, 0, 1) * 255).astype(np.uint8)
  values[0, :4, :4] = 0
  values[0, 4:8, :4] = 77
  values[0, 8:12, :4] = (250, 0, 0)
  return values


def assert_close(ours, expected, most=1):
  assert ours.dtype == np.uint8
  np.testing.assert_allclose(ours.astype(int), np.floor(expected), atol=most)


@pytest.mark.parametrize("name", list(corruptions.CORRUPTIONS))
def test_every_corruption_grows_with_its_severity_and_repeats(name, images):
  outputs = [corruptions.corrupt(name, severity, images) for severity in corruptions.SEVERITIES]
  errors = [np.abs(output.astype(int) - images).mean() for output in outputs]
  assert all(o.shape == images.shape and o.dtype == np.uint8 for o in outputs)
  # Saturation first falls and then grows; an elastic image moves less and makes more waves; glass
  # differs mostly in its repetitions.
  orders = {"saturate": errors[2:], "elastic_transform": errors[:1], "glass_blur": errors[:4]}
  order = orders.get(name, errors)
  assert order[0] > 0 and order[-1] == max(order)
  np.testing.assert_array_equal(corruptions.corrupt(name, 5, images), outputs[4])


@pytest.mark.parametrize("name", corruptions.list_names(channels=1))
def test_grey_images_and_few_images_are_corrupted_too(name, images):
  grey = images[:1, :28, :28, :1]
  assert corruptions.corrupt(name, 3, grey).shape == grey.shape
  assert corruptions.corrupt(name, 3, grey[:0]).shape == (0, 28, 28, 1)


def in_hsv(images, change):
  """Apply a function of (hue, saturation, value) to each pixel by the standard library."""
  output = np.empty(images.shape)
  for index in np.ndindex(images.shape[:-1]):
    hsv = colorsys.rgb_to_hsv(*(images[index] / 255))
    output[index] = colorsys.hsv_to_rgb(*change(*hsv))
  return output * 255


def clip(x):
  return min(max(x, 0.0), 1.0)


def test_colours_change_as_in_hsv(images):
  few = images[:1, :16, :16]
  brighter = in_hsv(few, lambda h, s, v: (h, s, clip(v + 0.15)))
  assert_close(corruptions.corrupt("brightness", 3, few), brighter)
  for severity, factor, offset in ((1, 0.3, 0), (4, 2, 0.1)):
    saturated = in_hsv(few, lambda h, s, v, f=factor, o=offset: (h, clip(s * f + o), v))
    assert_close(corruptions.corrupt("saturate", severity, few), saturated)


def test_contrast_keeps_the_mean_of_each_channel(images):
  means = images.mean((1, 2), keepdims=True)
  assert_close(corruptions.corrupt("contrast", 5, images), (images - means) * 0.15 + means)


@pytest.mark.parametrize(("severity", "end"), [(1, 1.06), (5, 1.26)])
def test_zoom_blur_is_the_mean_of_enlargements(severity, end, images):
  image = images[1] / 255
  total = image.copy()
  factors = np.arange(1, end, 0.01)
  for factor in factors:
    kept = math.ceil(32 / factor)
    first = (32 - kept) // 2
    middle = image[first : first + kept, first : first + kept]
    larger = scipy.ndimage.zoom(middle, (factor, factor, 1), order=1)
    trim = (len(larger) - 32) // 2
    total += larger[trim : trim + 32, trim : trim + 32]
  expected = total / (len(factors) + 1) * 255
  assert_close(corruptions.corrupt("zoom_blur", severity, images)[1], expected)


def test_blurs_keep_a_flat_image_and_spread_a_point():
  flat = np.full((1, 16, 16, 3), 200, np.uint8)
  point = np.zeros((1, 17, 17, 3), np.uint8)
  point[0, 8, 8] = 255
  for name in ("gaussian_blur", "defocus_blur", "zoom_blur"):
    assert_close(corruptions.corrupt(name, 5, flat), flat)
    assert corruptions.corrupt(name, 5, point)[0, 8, 8, 0] < 255
  # A disk of radius 1.5 has 9 pixels; its edge is blurred by 0.1 pixels, which is nothing.
  disk = corruptions.corrupt("defocus_blur", 5, point)[0, 7:10, 7:10, 0]
  assert_close(disk, np.full((3, 3), 255 / 9))


def test_digital_corruptions_are_pillows(images):
  for image, jpeg, pixelated in zip(
    images,
    corruptions.corrupt("jpeg_compression", 5, images),
    corruptions.corrupt("pixelate", 5, images),
    strict=True,
  ):
    Image.fromarray(image).save(buffer := io.BytesIO(), "JPEG", quality=40)
    np.testing.assert_array_equal(jpeg, np.asarray(Image.open(buffer)))
    small = Image.fromarray(image).resize((20, 20), Image.Resampling.BOX)  # int(0.65 * 32)
    large = small.resize((32, 32), Image.Resampling.BOX)
    np.testing.assert_array_equal(pixelated, np.asarray(large))


def test_noises_have_their_deviations():
  grey = np.full((40, 32, 32, 3), 128, np.uint8)
  x = 128 / 255
  for name, deviation in {
    "gaussian_noise": 0.08,
    "shot_noise": math.sqrt(x / 100),
    "speckle_noise": 0.12 * x,
  }.items():
    noisy = corruptions.corrupt(name, 3, grey) / 255
    assert noisy.std() == pytest.approx(deviation, rel=0.01), name
    assert noisy.mean() == pytest.approx(x, abs=0.003), name
  hit = corruptions.corrupt("impulse_noise", 5, grey)
  assert np.mean(hit == 0) == pytest.approx(0.035, rel=0.05)
  assert np.mean(hit == 255) == pytest.approx(0.035, rel=0.05)


def test_glass_copies_pixels_of_the_neighbourhood(images):
  glassy = distortions.blur_by_glass(images, (0, 1, 1), np.random.default_rng(0))
  neighbours = np.stack([np.roll(images, (r, c), (1, 2)) for r in (0, 1) for c in (0, 1)])
  is_neighbour = (glassy == neighbours).all(-1).any(0)
  assert is_neighbour[:, 2:, 2:].all()
  np.testing.assert_array_equal(glassy[:, :2], images[:, :2])
  has_moved = (glassy != images).any(-1)[:, 2:, 2:]
  assert has_moved.mean() > 0.5  # a quarter of the draws are 0


def test_fog_lies_between_its_thinnest_and_its_thickest():
  grey = np.full((4, 32, 32, 3), 102, np.uint8)  # 0.4
  foggy = distortions.lay_fog(grey, (0.5, 3), np.random.default_rng(0)) / 255
  np.testing.assert_allclose(foggy.min((1, 2, 3)), 0.4 * 0.4 / 0.9, atol=1 / 255)
  np.testing.assert_allclose(foggy.max((1, 2, 3)), 0.4, atol=1 / 255)
  rough, smooth = (distortions.fractals(20, 32, d, np.random.default_rng(0)) for d in (1.75, 3))
  detail_of_rough, detail_of_smooth = (np.abs(np.diff(x, 2)).mean() for x in (rough, smooth))
  assert detail_of_rough > 2 * detail_of_smooth
  assert distortions.fractals(2, 33, 2, np.random.default_rng(0)).shape == (2, 64, 64)


def test_an_affine_move_is_that_of_pillow(images):
  """Pillow's inverse affine transform, of the same three corners, away from the border."""
  rng = np.random.default_rng(5)
  ours = distortions.stretch(images[:1], (0, 0, 0.08), rng)[0]
  corners = distortions._corners(32, 32)
  moved = corners + np.random.default_rng(5).uniform(-2.56, 2.56, (3, 2))
  row, column = np.linalg.solve(np.c_[moved, np.ones(3)], corners).T
  # Pillow gives the middle of a pixel half a step more than its number.
  terms = [(column[1], column[0], column[2]), (row[1], row[0], row[2])]
  data = [v for x, y, c in terms for v in (x, y, c + 0.5 - (x + y) / 2)]
  picture = Image.fromarray(images[0])
  bilinear = Image.Resampling.BILINEAR
  expected = np.asarray(picture.transform((32, 32), Image.Transform.AFFINE, data, bilinear))
  assert_close(ours[6:26, 6:26], expected[6:26, 6:26])


def test_waves_move_pixels_by_no_more_than_their_height():
  ramp = np.tile(np.arange(32, dtype=np.uint8)[:, None, None] * 8, (3, 1, 32, 1))
  wavy = distortions.stretch(ramp, (0.1, 0.04, 0), np.random.default_rng(0))
  moved = np.abs(wavy.astype(float) - ramp)[:, 4:-4] / 8  # pixels
  assert moved.mean() > 0.2 and moved.max() < 3.2
  np.testing.assert_array_equal(
    distortions.stretch(ramp, (0, 0, 0), np.random.default_rng(0)), ramp
  )
