"""Decoding one image: as Keras does, upright, and without an error for any content."""

import functools
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_photos import encoded, noise

from cifar_jax.data import image_files, photo_recipe


@functools.cache
def kinds() -> dict[str, bytes]:
  """Return one image file of each kind."""
  rgb = Image.fromarray(noise(23, 31, 3)).resize((310, 230), Image.Resampling.BICUBIC)
  rgba = Image.fromarray(noise(40, 30, 4))
  return {
    "jpeg": encoded(rgb, "JPEG"),
    "progressive": encoded(rgb, "JPEG", progressive=True),
    "CMYK": encoded(rgb.convert("CMYK"), "JPEG"),
    "grey jpeg": encoded(rgb.convert("L"), "JPEG"),
    "grey": encoded(noise(9, 50)),
    "RGBA": encoded(rgba),
    "grey and alpha": encoded(rgba.convert("LA")),
    "palette": encoded(rgb.quantize(17)),
    "palette, transparent": encoded(rgb.quantize(17), transparency=3),
    "palette, transparencies": encoded(rgb.quantize(4), transparency=bytes([0, 9, 255])),
    "one bit": encoded(rgb.convert("1")),
    "gif": encoded(rgb, "GIF"),
    "bmp": encoded(rgb, "BMP"),
    "webp": encoded(rgb, "WEBP"),
    "tiff": encoded(rgb, "TIFF", compression="tiff_lzw"),
    "ppm": encoded(rgb, "PPM"),
    "one pixel": encoded(noise(1, 1, 3)),
    "line": encoded(noise(1, 999, 3)),
    "final size": encoded(noise(15, 15, 3)),
  }


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")  # from Keras
@pytest.mark.parametrize("interpolation", photo_recipe.INTERPOLATIONS)
def test_decode_is_keras_load_img(interpolation):
  from keras import utils as keras_utils

  for kind, content in kinds().items():
    expected = keras_utils.load_img(
      io.BytesIO(content), target_size=(15, 15), interpolation=interpolation
    )
    image = image_files.decode(content, 15, interpolation)
    assert (image.shape, image.dtype) == ((15, 15, 3), np.uint8)
    np.testing.assert_array_equal(image, keras_utils.img_to_array(expected), err_msg=kind)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_orientation_is_honoured(kind):
  upright = np.zeros((64, 64, 3), np.uint8)
  upright[:32, :32], upright[:32, 32:], upright[32:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
  stored = {  # by the EXIF standard: the sides of the scene at row 0 and at column 0
    1: upright,  # top, left
    2: upright[:, ::-1],  # top, right
    3: upright[::-1, ::-1],  # bottom, right
    4: upright[::-1],  # bottom, left
    5: upright.transpose(1, 0, 2),  # left, top
    6: np.rot90(upright),  # right, top
    7: upright[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
    8: np.rot90(upright, -1),  # left, bottom
  }
  for orientation, pixels in stored.items():
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image_files.decode(encoded(pixels, kind, exif=exif), 64, "nearest")
    np.testing.assert_allclose(image[16::32, 16::32], upright[16::32, 16::32], atol=9)


def test_damaged_exif_data_is_ignored():
  pixels = noise(8, 8, 3)
  for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f"):
    np.testing.assert_array_equal(
      image_files.decode(encoded(pixels, exif=exif), 8, "nearest"), pixels
    )


def test_16_bits_of_grey_become_their_high_byte():
  pixels = noise(8, 8, dtype=np.uint16)
  expected = (pixels >> 8).astype(np.uint8)[..., None].repeat(3, -1)
  big_endian = Image.frombytes("I;16B", (8, 8), pixels.astype(">u2").tobytes())
  for content in (encoded(pixels), encoded(pixels, "TIFF"), encoded(big_endian, "TIFF")):
    np.testing.assert_array_equal(image_files.decode(content, 8, "nearest"), expected)


FUZZED = [
  encoded(noise(12, 10, 3), "JPEG"),
  encoded(noise(12, 10, 4)),
  encoded(Image.fromarray(noise(12, 10, 3)).quantize(8), transparency=1),
  encoded(noise(12, 10, 3), "TIFF", compression="tiff_lzw"),
  encoded(noise(12, 10, dtype=np.uint16)),
  encoded(noise(12, 10, 3), "GIF"),
  encoded(noise(12, 10, 3), "WEBP"),
  encoded(noise(12, 10, 3), "BMP"),
  encoded(noise(12, 10, 3), "PPM"),
]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_altered_bytes_are_decoded_or_left_out(data):
  content = bytearray(data.draw(st.sampled_from(FUZZED)))
  for _ in range(data.draw(st.integers(1, 8))):
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
  if data.draw(st.booleans()):
    content = content[: data.draw(st.integers(0, len(content)))]
  file = image_files.File("x.jpg", lambda: bytes(content))
  reasons = {}
  recipe = photo_recipe.Recipe(
    8, "bilinear", 0, 0.5, 0, data.draw(st.sampled_from(("none", "center")))
  )

  def read(files):
    decoder = photo_recipe._Decoder(files, recipe)
    return (decoder[i] for i in range(len(decoder)))

  images = [image for _, (image, _) in photo_recipe.draw([file], 1, 0, read, reasons)]
  assert [image.shape for image in images] == [(8, 8, 3)] * (1 - len(reasons))


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (41, 41), (7, 3)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "lanczos"])
def test_centre_crop_resizes_the_largest_central_square(shape, interpolation):
  height, width = shape
  pixels = noise(height, width, 3)
  side = min(shape)
  # Pillow's own crop, where the margins are whole numbers.
  top, left = (height - side) // 2, (width - side) // 2
  assert 2 * top == height - side and 2 * left == width - side
  square = Image.fromarray(pixels[top : top + side, left : left + side])
  expected = square.resize((16, 16), Image.Resampling[interpolation.upper()])
  image = image_files.decode(encoded(pixels), 16, interpolation, "center")
  np.testing.assert_array_equal(image, np.asarray(expected))


def test_centre_crop_keeps_the_scale_of_jpegs_that_are_decoded_smaller():
  ramp = np.linspace(0, 255, 1600, dtype=np.float32)
  pixels = np.stack(
    [np.tile(ramp, (1200, 1)), np.tile(ramp[:1200, None], (1, 1600)), np.full((1200, 1600), 99)], -1
  ).astype(np.uint8)
  content = encoded(pixels, "JPEG", quality=95)
  image = image_files.decode(content, 32, "bilinear", "center")
  square = Image.fromarray(pixels[:, 200:1400]).resize((32, 32), Image.Resampling.BILINEAR)
  difference = np.abs(image.astype(int) - np.asarray(square).astype(int))
  assert image.shape == (32, 32, 3) and difference.max() <= 4
