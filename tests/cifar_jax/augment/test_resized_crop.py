"""Crops that are resized, against Pillow and against draws by NumPy."""

import functools

import jax
import numpy as np
import pytest
import scipy.stats
from image_batches import make_keys, make_noise
from PIL import Image

from cifar_jax import errors
from cifar_jax.augment import chain, resized_crop


def measure(height, width, number, **arguments):
  """Return the crops of `number` images [number, (height, width, top, left)] in pixels.

  The images are ramps: their values are the coordinates of their pixels' centres.
  """
  rows, columns = np.mgrid[:height, :width].astype(np.float32)
  ramps = np.broadcast_to(np.stack([rows, columns], -1), (number, height, width, 2))
  crop = jax.jit(functools.partial(resized_crop.random_resized_crop, **arguments))
  result = np.asarray(crop(make_keys(number), ramps))
  # Two pixels far from the border, where nothing is clipped.
  (y0, y1), (x0, x1) = (height // 3, 2 * height // 3), (width // 3, 2 * width // 3)
  scale_y = (result[:, y1, x0, 0] - result[:, y0, x0, 0]) / (y1 - y0)
  scale_x = (result[:, y0, x1, 1] - result[:, y0, x0, 1]) / (x1 - x0)
  top = result[:, y0, x0, 0] + 0.5 - (y0 + 0.5) * scale_y
  left = result[:, y0, x0, 1] + 0.5 - (x0 + 0.5) * scale_x
  return np.stack([scale_y * height, scale_x * width, top, left], -1)


def draw_with_numpy(height, width, number, area, ratio):
  """Return crops (height, width) as torchvision documents them, without rounding."""
  rng, crops = np.random.default_rng(0), []
  while len(crops) < number:
    for _ in range(10):
      pixels = height * width * rng.uniform(*area)
      stretch = np.exp(rng.uniform(*np.log(ratio)))
      crop = (np.sqrt(pixels / stretch), np.sqrt(pixels * stretch))
      if crop[0] <= height and crop[1] <= width:
        break
    else:
      crop = (height, width)
    crops.append(crop)
  return np.array(crops)


@pytest.mark.parametrize(
  ("height", "width", "area", "ratio"),
  [(24, 24, (0.08, 1.0), (3 / 4, 4 / 3)), (18, 30, (0.3, 0.5), (0.5, 1.0))],
)
def test_crops_are_drawn_as_torchvision_does(height, width, area, ratio):
  crops = measure(height, width, 2000, area=area, ratio=ratio)
  expected = draw_with_numpy(height, width, 2000, area, ratio)
  for ours, theirs in zip(crops[:, :2].T, expected.T, strict=True):
    assert scipy.stats.ks_2samp(ours, theirs).pvalue > 1e-3
  shares = crops[:, 0] * crops[:, 1] / (height * width)
  assert shares.min() > area[0] - 1e-3 and shares.max() < area[1] + 1e-3
  ratios = crops[:, 1] / crops[:, 0]
  assert ratios.min() > ratio[0] - 1e-2 and ratios.max() < ratio[1] + 1e-2
  # The place is uniform over all that fit.
  room = np.array([height, width]) - crops[:, :2]
  assert (crops[:, 2:] > -1e-2).all() and (crops[:, 2:] < room + 1e-2).all()
  places = (crops[:, 2:] / room)[(room > 1).all(-1)]
  for place in places.T:
    assert scipy.stats.kstest(place, "uniform").pvalue > 1e-3


def test_a_crop_that_never_fits_becomes_the_whole_image():
  images = make_noise(3, 8, 10)
  crop = jax.jit(functools.partial(resized_crop.random_resized_crop, area=(1, 1), ratio=(5, 5)))
  result = crop(make_keys(3), images)
  np.testing.assert_allclose(result, images, atol=1e-5)


def test_pixels_are_those_of_pillow():
  images = make_noise(1, 16, 20, 1)
  crop = (9.5, 11.25, 3.25, 4.5)  # height, width, top, left
  result = np.asarray(jax.jit(resized_crop._resize_crop)(images, np.array([crop], np.float32)))
  box = (crop[3], crop[2], crop[3] + crop[1], crop[2] + crop[0])
  pillow = Image.fromarray(images[0, :, :, 0])
  expected = np.asarray(pillow.resize((20, 16), Image.Resampling.BILINEAR, box=box))
  np.testing.assert_allclose(result[0, :, :, 0], expected, atol=1e-5)


@pytest.mark.parametrize("fraction", [0.5, 0.875, 1.0])
def test_center_crop_is_the_centre(fraction):
  images = make_noise(2, 16, 24, 1)
  crop = jax.jit(functools.partial(resized_crop.center_crop, fraction=fraction))
  result = np.asarray(crop(make_keys(2), images))
  margin = (1 - fraction) / 2
  box = (24 * margin, 16 * margin, 24 * (1 - margin), 16 * (1 - margin))
  for ours, image in zip(result, images, strict=True):
    pillow = Image.fromarray(image[:, :, 0])
    expected = np.asarray(pillow.resize((24, 16), Image.Resampling.BILINEAR, box=box))
    np.testing.assert_allclose(ours[:, :, 0], expected, atol=1e-5)


def test_an_images_key_alone_decides_its_crop():
  images = make_noise(4)
  crop = jax.jit(resized_crop.random_resized_crop)
  both = crop(make_keys(4), images)
  one = crop(make_keys(4)[2:3], images[2:3])
  np.testing.assert_allclose(both[2:3], one, atol=1e-6)


@pytest.mark.parametrize(
  "text",
  [
    "random_resized_crop(area=(0.5, 0.1))",
    "random_resized_crop(area=(0, 1))",
    "random_resized_crop(area=0.5)",
    "random_resized_crop(ratio=(-1, 1))",
    "center_crop(fraction=0)",
    "center_crop(fraction=1.5)",
  ],
)
def test_bad_arguments_are_refused(text):
  with pytest.raises(errors.UserError, match=r"must be a"):
    chain.parse(text)
  chain.parse("random_resized_crop(area=(0.5, 0.5)) | center_crop(fraction=1)")
