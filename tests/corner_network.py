"""A network that is made by hand and needs no training: it predicts the brightest corner.

The classes are the corners of an image.
"""

import contextlib
import io
import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import linen as nn
from PIL import Image

import models
from analysis import predict
from cifar_jax.runs import checkpoints
from cifar_jax.runs.run_folder import RunFolder
from configs import default

CORNERS = ["top_left", "top_right", "bottom_left", "bottom_right"]


class BrightestCorner(nn.Module):
  """Logits in proportion to the mean brightness of each quarter of the image, in [0, 1].

  has_convolution: whether a convolution makes the image grey first.
  """

  has_convolution: bool = False
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x, train):
    if self.has_convolution:
      x = nn.Conv(1, (1, 1), use_bias=False, name="grey")(x)
    scale = self.param("scale", nn.initializers.constant(20.0), ())
    half = x.shape[1] // 2
    quarters = [x[:, :half, :half], x[:, :half, half:], x[:, half:, :half], x[:, half:, half:]]
    return scale * jnp.stack([quarter.mean((1, 2, 3)) for quarter in quarters], -1)


def register() -> None:
  """Register the model, unless another test has done so."""
  if "brightest_corner" in models.list_names():
    return

  @models.register("brightest_corner")
  def brightest_corner(has_convolution: bool = False, **common: object) -> nn.Module:
    return BrightestCorner(has_convolution)


def make_run(
  path: pathlib.Path,
  shape=(32, 32, 3),
  data="cifar10",
  scale=20.0,
  options=None,
  seeds=1,
  has_convolution=False,
) -> pathlib.Path:
  """Write the files of a run folder that load_run reads."""
  register()
  config = default.get_config()
  config.model = ml_collections.ConfigDict({"name": "brightest_corner"})
  params = {"scale": np.float32(scale)}
  if has_convolution:
    config.model.has_convolution = True
    params["grey"] = {"kernel": np.full((1, 1, shape[2], 1), 1 / shape[2], np.float32)}
  config.data.name, config.data.normalize, config.dtype = data, "unit", "float32"
  config.data.options = options or {}
  config.num_seeds = seeds
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(config.to_dict()))
  description = {"name": data, "image_shape": shape, "class_names": CORNERS}
  (path / "dataset.json").write_text(json.dumps(description))
  variables = {"params": params, "batch_stats": {}}
  if seeds > 1:
    variables = jax.tree.map(lambda leaf: leaf * np.arange(1, seeds + 1, dtype="f4"), variables)
  store = checkpoints.Checkpoints(path)
  store.save_best([7], variables)
  store.close()
  return path


def draw_corner(which: str, bright=255, dark=0, size=64, dtype=np.uint8) -> np.ndarray:
  """Return pixels [size, size], `bright` in one corner."""
  half, i = size // 2, CORNERS.index(which)
  pixels = np.full((size, size), dark, dtype)
  pixels[i // 2 * half :, i % 2 * half :][:half, :half] = bright
  return pixels


def predict_text(*arguments, **options) -> tuple[str, int]:
  """Call `predict.predict`; return what it prints without the last newline, and the exit code."""
  output = io.StringIO()
  with contextlib.redirect_stdout(output):
    code = predict.predict(*arguments, **options)
  return output.getvalue().removesuffix("\n"), code


def write_rows(path: pathlib.Path, epochs: int) -> None:
  """Write metrics.jsonl with some epochs, whose validation accuracy is epoch / 10."""
  RunFolder(path).write_metrics(
    [
      {
        "step": 10 * epoch,
        "epoch": epoch,
        "train_loss": 2.0 / epoch,
        "train_accuracy": epoch / 9,
        "val_loss": 2.2 / epoch,
        "val_accuracy": epoch / 10,
        "learning_rate": 0.1,
        "images_per_second": 1000.0,
        "seconds": 2.0,
      }
      for epoch in range(1, epochs + 1)
    ]
  )


def photo_of(which: str = "top_right", kind: str = "PNG") -> bytes:
  """Return the file of a photo with one bright corner."""
  buffer = io.BytesIO()
  pixels = draw_corner(which).repeat(3).reshape(64, 64, 3)
  Image.fromarray(pixels).save(buffer, kind)
  return buffer.getvalue()
