"""Predictions on image files of every kind, valid and broken.

The network is built by hand: its classes are the corners of an image, and it predicts the
brightest.
"""

import io
import json
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from corner_network import CORNERS, draw_corner, make_run, predict_text
from PIL import Image

from analysis import images, load_run, predict, prediction_picture
from cifar_jax import errors
from cifar_jax.data import image_files

FLAG = "none of these?"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp("runs") / "corners")


@pytest.fixture(scope="module")
def grey_workdir(tmp_path_factory):
  return make_run(tmp_path_factory.mktemp("runs") / "grey", shape=(28, 28, 1), data="mnist")


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **arguments) -> bytes:
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, kind, **arguments)
  return buffer.getvalue()


def rgb(which: str, **arguments) -> Image.Image:
  return Image.fromarray(draw_corner(which, **arguments)).convert("RGB")


def predict_json(workdirs, paths, **arguments):
  """Return the parsed JSON of predict, and its exit code."""
  text, code = predict_text(workdirs, paths, as_json=True, **arguments)
  return json.loads(text), code


# --- Images of every kind ------------------------------------------------------------------------


def images_of_every_kind() -> dict[str, bytes]:
  """Return images whose bright corner is the top right, by file name."""
  which = "top_right"
  photo = rgb(which)
  # Black everywhere, and bright only where transparency lets the white ground show through.
  alpha = 255 - draw_corner(which)
  hidden = Image.fromarray(np.dstack([np.zeros((64, 64, 3), np.uint8), alpha]))
  palette = Image.fromarray((draw_corner(which) > 0).astype(np.uint8))
  palette.putpalette([0, 0, 0, 10, 10, 10])
  colour_key = Image.fromarray(np.dstack([draw_corner(which, 7, 0)] * 3))
  exif = Image.Exif()
  exif[0x0112] = 6  # row 0 is the right side: viewers turn the image clockwise by a quarter
  turned = photo.transpose(Image.Transpose.ROTATE_90)
  turned_hidden = hidden.transpose(Image.Transpose.ROTATE_90)
  return {
    "rgb.png": encoded(photo),
    "jpeg.jpg": encoded(photo, "JPEG"),
    "grey.png": encoded(draw_corner(which)),
    "grey.jpg": encoded(draw_corner(which), "JPEG"),
    "one bit.png": encoded(photo.convert("1")),
    "palette.png": encoded(photo.quantize(5)),
    "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
    "cmyk.tif": encoded(photo.convert("CMYK"), "TIFF"),
    "16 bit.png": encoded(draw_corner(which, 0xF000, 0x00FF, dtype=np.uint16)),
    "16 bit.tif": encoded(draw_corner(which, 0xF000, 0x00FF, dtype=np.uint16), "TIFF"),
    "rgba.png": encoded(hidden),
    "rgba.webp": encoded(hidden, "WEBP", lossless=True, exact=True),
    "grey and alpha.png": encoded(hidden.convert("LA")),
    "palette and alpha.png": encoded(palette, transparency=1),
    "palette and alpha.gif": encoded(palette, "GIF", transparency=1),
    "colour key.png": encoded(colour_key, transparency=(7, 7, 7)),
    "turned.jpg": encoded(turned, "JPEG", exif=exif),
    "turned.png": encoded(turned, exif=exif),
    "turned and alpha.png": encoded(turned_hidden, exif=exif),
    "wide.png": encoded(photo.resize((300, 20))),
    "large.jpg": encoded(photo.resize((3000, 2000)), "JPEG"),
    "tiny.png": encoded(photo.resize((2, 2), Image.Resampling.NEAREST)),
  }


@pytest.mark.parametrize("network", ["workdir", "grey_workdir"])
def test_images_of_every_kind(network, tmp_path, request):
  for name, content in images_of_every_kind().items():
    (tmp_path / name).write_bytes(content)
  output, code = predict_json([request.getfixturevalue(network)], [tmp_path])
  assert (code, output["skipped"]) == (0, [])
  files = [os.path.relpath(row["file"], tmp_path) for row in output["images"]]
  assert files == sorted(images_of_every_kind())
  for row in output["images"]:
    (prediction,) = row["predictions"]
    assert prediction["class"] == "top_right", row["file"]
    assert prediction["probability"] > 0.9, row["file"]
    assert not prediction["probably_none_of_the_classes"]


def test_16_bits_are_scaled():
  pixels = np.full((8, 8), 0x8123, np.uint16)
  decoded = images.decode(encoded(pixels), (8, 8, 1), "bilinear")
  assert decoded.shape == (8, 8, 1) and (decoded == 0x81).all()


def test_transparency_is_laid_on_white():
  pixels = np.array([[[100, 0, 0, 255], [100, 0, 0, 0]], [[100, 0, 0, 51], [0, 0, 0, 128]]], "u1")
  decoded = images.decode(encoded(pixels), (2, 2, 3), "nearest")
  expected = [[[100, 0, 0], [255, 255, 255]], [[224, 204, 204], [127, 127, 127]]]
  np.testing.assert_allclose(decoded, expected, atol=1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "lanczos"])
def test_opaque_images_are_decoded_as_in_training(interpolation):
  noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
  for content in (
    encoded(noise),
    encoded(noise, "JPEG"),
    encoded(np.dstack([noise, noise[..., 0] | 255])),
  ):
    trained = image_files.decode(content, 12, interpolation)
    decoded = images.decode(content, (12, 12, 3), interpolation)
    np.testing.assert_array_equal(decoded, trained)
    grey = images.decode(content, (12, 12, 1), interpolation)
    np.testing.assert_array_equal(grey[..., 0], Image.fromarray(trained).convert("L"))


@pytest.mark.parametrize(
  ("data", "options", "expected"),
  [
    ("cifar10", {}, "bilinear"),
    ("a_private_dataset", {}, "bilinear"),
    ("image_folder", {}, "nearest"),
    ("cats_vs_dogs", {"interpolation": None}, "nearest"),
    ("image_folder", {"interpolation": "lanczos"}, "lanczos"),
    ("image_folder", {"crop": "center"}, "nearest"),
  ],
)
def test_files_are_resized_like_the_training_photos(data, options, expected, tmp_path):
  run = load_run(make_run(tmp_path / "run", (20, 20, 3), data, options=options))
  decoding = images.choose_decoding(run)
  assert decoding == ((20, 20, 3), expected, options.get("crop", "none"))


@pytest.mark.parametrize("shape", [(20, 30, 3), (20, 20, 4)])
def test_networks_that_take_no_files(shape, tmp_path):
  path = make_run(tmp_path / "run", shape)
  (tmp_path / "a.png").write_bytes(encoded(rgb("top_left")))
  with pytest.raises(
    errors.UserError, match=r"run: takes images of shape .*; image files can only be decoded to"
  ):
    predict.predict([path], [tmp_path / "a.png"])


# --- Bad files -----------------------------------------------------------------------------------


def one_bit_bomb(side: int) -> bytes:
  """Return a black 1-bit PNG of side × side pixels, in a few kilobytes."""

  def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

  header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
  rows = zlib.compress(bytes((1 + -(-side // 8)) * side), 9)
  return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_small_bomb_is_a_valid_image():
  assert images.decode(one_bit_bomb(2000), (4, 4, 3), "bilinear").max() == 0


def test_pixels_are_limited_whatever_other_threads_do_to_the_filters_of_warnings(monkeypatch):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    monkeypatch.setattr(warnings, "simplefilter", lambda *_, **__: None)
    with pytest.raises(ValueError, match="100000000 pixels"):
      image_files.decode(one_bit_bomb(10_000), 4, "bilinear")


def bad_files(folder) -> dict[str, str]:
  """Write files that are not images; return the expected reason by file name."""
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
  contents = {
    "text.jpg": (b"This is not an image.\n", "not an image"),
    "empty.png": (b"", "not an image"),
    "cut.png": (encoded(noise)[:-2000], "truncated"),
    "cut.jpg": (encoded(noise, "JPEG")[:400], "truncated"),
    "bomb.png": (one_bit_bomb(20_000), "400000000 pixels"),
    "float.tif": (encoded(np.zeros((4, 4), np.float32), "TIFF"), "mode F"),
  }
  for name, (content, _) in contents.items():
    (folder / name).write_bytes(content)
  os.mkfifo(folder / "pipe.png")
  (folder / "nowhere.png").symlink_to(folder / "not there")
  reasons = {name: reason for name, (_, reason) in contents.items()}
  return reasons | {"pipe.png": "not a regular file", "nowhere.png": "No such file or directory"}


def test_bad_files_are_named_and_skipped(workdir, tmp_path):
  reasons = bad_files(tmp_path)
  (tmp_path / "good.png").write_bytes(encoded(rgb("bottom_left")))
  (tmp_path / "pixel.png").write_bytes(encoded(np.full((1, 1), 99, np.uint8)))
  output, code = predict_json([workdir], [tmp_path])
  assert code == predict.SOME_SKIPPED == 2
  good, pixel = output["images"]
  assert good["predictions"][0]["class"] == "bottom_left"
  (prediction,) = pixel["predictions"]  # uniform, so all classes are equally likely
  assert prediction["probability"] == pytest.approx(0.25)
  assert prediction["normalized_entropy"] == pytest.approx(1.0)
  assert prediction["probably_none_of_the_classes"]
  reported = {os.path.basename(bad["file"]): bad["reason"] for bad in output["skipped"]}
  assert reported.keys() == reasons.keys()
  for name, reason in reasons.items():
    assert reason.lower() in reported[name].lower(), name
    assert "\n" not in reported[name]
  text, _ = predict_text([workdir], [tmp_path])
  for name in reasons:
    assert f"skipped {tmp_path / name}: {reported[name]}" in text


def test_exit_codes(workdir, tmp_path):
  good, bad, missing = (tmp_path / name for name in ("good.png", "bad.png", "missing.png"))
  good.write_bytes(encoded(rgb("top_left")))
  bad.write_bytes(b"bad")
  assert predict_json([workdir], [good])[1] == predict.ALL_READ == 0
  output, code = predict_json([workdir], [bad, missing])
  assert code == predict.NONE_READ == 1
  assert (output["images"], len(output["skipped"])) == ([], 2)
  assert predict_json([workdir], [missing, good])[1] == 2
  text, _ = predict_text([workdir], [bad])
  assert text == f"skipped {bad}: not an image"


def test_odd_file_names_are_handled(workdir, tmp_path):
  odd = os.fsencode(tmp_path) + b"/\xff.png"
  with open(odd, "wb") as file:
    file.write(encoded(rgb("top_left")))
  output, code = predict_json(
    [workdir],
    [
      os.fsdecode(odd),
      tmp_path / ("x" * 300),
      "a\0b",
      "",
      "~nobody_of_that_name/a.png",
      str(tmp_path),
    ],
  )
  assert code == 2
  assert [row["file"] for row in output["images"]] == [f"{tmp_path}/\\xff.png"] * 2
  too_long, null, folder, missing = [bad["reason"] for bad in output["skipped"]]
  assert too_long == "File name too long"
  assert "embedded null" in null  # Python's words, which change
  assert folder == "not a regular file"
  assert missing == "No such file or directory"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_damaged_transparent_images_with_orientation(orientation, tmp_path):
  """The opaque copy of a transparent image is turned exactly once."""
  exif = Image.Exif()
  exif[0x0112] = orientation
  noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
  opaque = np.dstack([noise, np.full((16, 16), 255, np.uint8)])
  expected = image_files.decode(encoded(noise, exif=exif), 16, "nearest")
  decoded = images.decode(encoded(opaque, exif=exif), (16, 16, 3), "nearest")
  np.testing.assert_array_equal(decoded, expected)
  broken = images.decode(encoded(opaque, exif=b"Exif\0\0nonsense"), (16, 16, 3), "nearest")
  np.testing.assert_array_equal(broken, noise)


# --- Which files ---------------------------------------------------------------------------------


def test_folders_are_searched_in_order(tmp_path, monkeypatch):
  names = [
    "b.png",
    "a/z.JPG",
    "a/deep/er/1.webp",
    "a.gif",
    "notes.txt",
    ".hidden.png",
    ".git/1.png",
  ]
  for name in names:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  below = [tmp_path / name for name in ("a/deep/er/1.webp", "a/z.JPG", "a.gif", "b.png")]
  assert images.find_files([tmp_path]) == below
  text = tmp_path / "notes.txt"
  assert images.find_files([text, tmp_path / "a", text]) == [text, *below[:2], text]
  monkeypatch.setenv("HOME", str(tmp_path))
  assert images.find_files(["~/b.png"]) == [tmp_path / "b.png"]


def test_no_images_is_an_error(workdir, tmp_path):
  (tmp_path / "notes.txt").touch()
  with pytest.raises(errors.UserError, match=f"{tmp_path}: holds no image file"):
    predict.predict([workdir], [tmp_path])
  with pytest.raises(errors.UserError, match="images: none given; name image files, or folders"):
    predict.predict([workdir], [])


# --- Runs ----------------------------------------------------------------------------------------


def test_runs_that_cannot_be_used(workdir, tmp_path):
  image = tmp_path / "a.png"
  image.write_bytes(encoded(rgb("top_left")))
  with pytest.raises(errors.UserError, match=r"not a run folder, because it has no config\.json"):
    predict.predict([tmp_path], [image])
  with pytest.raises(errors.UserError, match="workdir: missing"):
    predict.predict([], [image])
  untrained = make_run(tmp_path / "untrained")
  (untrained / "checkpoints").rename(tmp_path / "elsewhere")
  with pytest.raises(errors.UserError, match="untrained: it holds no selected weights; pass the"):
    predict.predict([workdir, untrained], [image])


def test_several_runs_are_columns(workdir, grey_workdir, tmp_path):
  unsure = make_run(tmp_path / "unsure", scale=0.4)
  image = tmp_path / "a.png"
  image.write_bytes(encoded(rgb("bottom_right", size=32)))
  output, code = predict_json([workdir, grey_workdir, unsure], [image])
  assert code == 0
  assert [run["name"] for run in output["runs"]] == ["corners", "grey", "unsure"]
  assert [run["step"] for run in output["runs"]] == [7, 7, 7]
  (row,) = output["images"]
  assert [p["run"] for p in row["predictions"]] == ["corners", "grey", "unsure"]
  assert [p["class"] for p in row["predictions"]] == ["bottom_right"] * 3
  assert [p["probably_none_of_the_classes"] for p in row["predictions"]] == [False, False, True]
  p = np.array([1.0, 1.0, 1.0, np.exp(0.4)]) / (3 + np.exp(0.4))
  last = row["predictions"][2]
  assert last["probability"] == pytest.approx(p[3], rel=1e-5)
  assert last["normalized_entropy"] == pytest.approx(-(p * np.log(p)).sum() / np.log(4), rel=1e-5)
  assert [one["class"] for one in last["top5"]] == ["bottom_right", *CORNERS[:3]]
  assert [one["probability"] for one in last["top5"]] == pytest.approx([p[3], *p[:3]], rel=1e-5)

  text, code = predict_text([workdir, grey_workdir, unsure], [image])
  assert code == 0
  lines = text.splitlines()
  assert lines[0].split() == ["corners", "grey", "unsure"]
  assert lines[1].split() == ["file", *["class", "probability", "flag"] * 3]
  cells = lines[2].split()
  assert cells[:5] == [str(image), *["bottom_right", "100.00%"] * 2]
  assert cells[5:] == ["bottom_right", f"{p[3]:.2%}", *FLAG.split()]
  assert lines[3].split()[0] == "top_left" and lines[5].split()[0] == "bottom_left"
  assert lines[6].startswith(
    f"{FLAG} marks a probability below 40%, or an entropy above 70% of its maximum"
  )
  assert len(lines) == 7
  for i, name in enumerate(("corners", "grey", "unsure")):  # names stand above their columns
    column = [at for at in range(len(lines[1])) if lines[1].startswith("class", at)][i]
    assert (
      lines[0].index(name)
      == column
      == [at for at in range(len(lines[2])) if lines[2].startswith("bottom_right", at)][i]
    )


def test_runs_of_the_same_name_are_named_by_path(workdir, tmp_path):
  other = make_run(tmp_path / "corners")
  image = tmp_path / "a.png"
  image.write_bytes(encoded(rgb("top_left")))
  output, _ = predict_json([workdir, other], [image])
  assert [run["name"] for run in output["runs"]] == [str(workdir), str(other)]
  text, _ = predict_text([workdir, other], [image])
  first, second = text.splitlines()[0].split()
  assert (first, second) == (str(workdir), str(other))


def test_seed_selects_the_weights(tmp_path):
  path = make_run(tmp_path / "run", scale=0.5, seeds=2)
  image = tmp_path / "a.png"
  image.write_bytes(encoded(rgb("top_left", size=32)))
  sure = []
  for seed in (None, 0, 1):
    output, _ = predict_json([path], [image], seed=seed)
    sure.append(output["images"][0]["predictions"][0]["probability"])
    assert output["runs"][0]["seed"] == (seed or 0)
  assert sure[0] == sure[1] == pytest.approx(np.exp(0.5) / (np.exp(0.5) + 3))
  assert sure[2] == pytest.approx(np.exp(1.0) / (np.exp(1.0) + 3))


@pytest.mark.parametrize(
  ("thresholds", "flagged"),
  [
    ({"min_probability": 0.99}, True),
    ({"min_probability": 0.5, "max_entropy": 0.9}, False),
    ({"min_probability": 0.5, "max_entropy": 0.01}, True),
  ],
)
def test_callers_set_the_thresholds(thresholds, flagged, tmp_path):
  path = make_run(tmp_path / "run", scale=3.0)
  image = tmp_path / "a.png"
  image.write_bytes(encoded(rgb("top_left")))
  output, _ = predict_json([path], [image], **thresholds)
  assert output["images"][0]["predictions"][0]["probability"] == pytest.approx(0.87, abs=0.01)
  assert output["images"][0]["predictions"][0]["probably_none_of_the_classes"] == flagged
  assert output["thresholds"].items() >= thresholds.items()
  text, _ = predict_text([path], [image], **thresholds)
  assert (FLAG in text) == flagged


def test_many_files_are_read_in_chunks(workdir, tmp_path, monkeypatch):
  monkeypatch.setattr(predict, "call_size", lambda: 3)
  expected = []
  for i in range(8):
    name = CORNERS[i % 4]
    expected.append(name)
    (tmp_path / f"{i}.png").write_bytes(encoded(rgb(name)))
  for bad in ("2a.png", "9.png"):
    (tmp_path / bad).write_bytes(b"bad")
  output, code = predict_json([workdir], [tmp_path])
  assert [row["predictions"][0]["class"] for row in output["images"]] == expected
  assert (len(output["skipped"]), code) == (2, 2)


def test_a_loaded_run_predicts_arrays(workdir):
  pixels = np.dstack([draw_corner("top_right", size=32)] * 3)[None]
  probabilities = load_run(workdir).predict(pixels)
  assert CORNERS[probabilities[0].argmax()] == "top_right"


def test_a_network_of_two_arrays_is_spread_over_the_devices(tmp_path):
  """A program of as many arrays as arguments, which jax.pmap can confuse."""
  run = load_run(make_run(tmp_path / "run", has_convolution=True))
  pixels = np.stack([np.dstack([draw_corner(name, size=32)] * 3) for name in CORNERS * 4])
  assert [CORNERS[i] for i in run.predict(pixels).argmax(1)] == CORNERS * 4
  assert "_compiled" not in vars(run)  # the program of one device


# --- The picture ---------------------------------------------------------------------------------


def test_the_picture_has_every_photo_and_every_networks_class(
  workdir, grey_workdir, tmp_path, drawn
):
  unsure = make_run(tmp_path / "unsure", scale=0.4)
  (tmp_path / "a $x$.png").write_bytes(encoded(rgb("bottom_right", size=32)))
  (tmp_path / "b.png").write_bytes(encoded(rgb("top_left").resize((90, 30))))
  (tmp_path / "broken.png").write_bytes(b"not an image")
  paths = [tmp_path / name for name in ("a $x$.png", "broken.png", "b.png")]
  text, code = predict_text([workdir, grey_workdir, unsure], paths, picture=tmp_path / "p.png")
  assert (text, code) == predict_text([workdir, grey_workdir, unsure], paths)
  assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
  (figure,) = drawn
  photos = [image.get_array() for axis in figure.axes for image in axis.images]
  assert [photo.shape for photo in photos] == [(32, 32, 3), (30, 90, 3)]  # not the broken file
  lines = [[text.get_text() for text in axis.texts] for axis in figure.axes if axis.texts]
  assert lines[0][1:] == [
    "corners → bottom_right (100.00%)",
    "grey → bottom_right (100.00%)",
    f"unsure → bottom_right (33.21%), {FLAG}",
  ]
  assert [name[-9:] for name, *_ in lines] == ["a $x$.png", *[str(tmp_path / "b.png")[-9:]]]
  assert "top_left" in lines[1][1]


def test_a_picture_that_cannot_be_drawn_is_one_line(workdir, tmp_path):
  image = tmp_path / "a.png"
  image.write_bytes(encoded(rgb("top_left")))
  with pytest.raises(
    errors.UserError, match=r"--picture: .*none/p.png cannot be written \(No such"
  ):
    predict.predict([workdir], [image], picture=tmp_path / "none" / "p.png")
  many = [image] * (prediction_picture.MAX_PHOTOS + 1)
  with pytest.raises(errors.UserError, match=r"--picture: 49 photos are too many .* at most 48"):
    predict.predict([workdir], many, picture=tmp_path / "p.png")


def test_photos_are_shown_upright_on_white_with_their_proportions(tmp_path):
  for name, content in images_of_every_kind().items():
    (tmp_path / name).write_bytes(content)
    photo = images.read_photo(tmp_path / name, 100)
    height, width, channels = photo.shape
    assert channels == 3 and max(height, width) <= 100
    top_right, bottom_left = photo[height // 4, 3 * width // 4], photo[3 * height // 4, width // 4]
    assert top_right.astype(int).min() > bottom_left.max(), name
  assert images.read_photo(tmp_path / "wide.png", 100).shape == (7, 100, 3)
  assert images.read_photo(tmp_path / "tiny.png", 100).shape == (2, 2, 3)
