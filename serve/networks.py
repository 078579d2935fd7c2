"""Trained networks in memory, loaded and compiled when a request first names them."""

import asyncio
import collections
import io
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np

from analysis import images, predict
from analysis.run import Run, load_run
from analysis.visualize import drawings, gradients, pictures
from cifar_jax import errors
from cifar_jax.runtime.console import log
from cifar_jax.types import Row
from serve import batching, runs, summaries

MAX_NETWORKS = 8  # in memory, and per request
_HEAT_SIDE = 320  # pixels of a Grad-CAM picture
_SECONDS_BETWEEN_RELOADS = 10.0
T = TypeVar("T")


class Served(NamedTuple):
  """A loaded network, its run, and the batcher of its requests."""

  network: predict.Network
  run: Run
  batcher: batching.Batcher


class _Entry(NamedTuple):
  """A network that is loaded or being loaded.

  Attributes:
    served: the task that loads the network.
    step: the step of the weights.
    loaded_at: time.monotonic() when loading started.
  """

  served: "asyncio.Task[Served]"
  step: int
  loaded_at: float


class Photo(NamedTuple):
  """An uploaded file: its name, and its content, which is read when it is decoded."""

  name: str
  content: BinaryIO

  def read(self) -> bytes:
    self.content.seek(0)
    return self.content.read()


class Networks:
  """The networks of a `RunIndex`; the most recently used ones stay in memory.

  One thread computes for all networks, one loads, and a few decode photos.
  """

  def __init__(self, index: runs.RunIndex):
    self._index = index
    self._entries: collections.OrderedDict[str, _Entry] = collections.OrderedDict()
    self._compute = futures.ThreadPoolExecutor(1, "compute")
    self._load = futures.ThreadPoolExecutor(1, "load")
    self._decode = futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1), "decode")

  def close(self) -> None:
    for executor in (self._compute, self._load, self._decode):
      executor.shutdown(wait=False, cancel_futures=True)

  async def load(self, names: Sequence[str]) -> list[Served]:
    """Return the networks of some runs, with their newest selected weights.

    Raises:
      KeyError: no run has one of the names.
      UserError: a run has no weights yet, or cannot be used.
    """
    return list(await asyncio.gather(*(self._get(name) for name in names)))

  async def classify(self, served: Sequence[Served], photos: Sequence[Photo]) -> Row:
    """Classify photos with each of the networks; return the JSON of --mode=predict."""
    limits = predict.Thresholds(predict.MIN_PROBABILITY, predict.MAX_ENTROPY)
    rows, skipped = [], []
    answers = await asyncio.gather(*(self._classify_one(served, photo, limits) for photo in photos))
    for photo, answer in zip(photos, answers, strict=True):
      if isinstance(answer, str):
        skipped.append({"file": photo.name, "reason": answer})
      else:
        rows.append({"file": photo.name, "predictions": answer})
    return {
      "runs": predict.describe_networks([one.network for one in served]),
      "thresholds": limits._asdict(),
      "images": rows,
      "skipped": skipped,
    }

  async def explain(self, served: Served, photo: Photo, class_name: str) -> bytes:
    """Return a PNG of a photo under the Grad-CAM map of a class; '' is the predicted class.

    Raises:
      UserError: the photo cannot be read, there is no such class, or the network has no feature
        maps.
    """
    content = await self._run(self._decode, photo.read)
    return await self._run(self._compute, lambda: _explain(served, content, class_name))

  async def _get(self, name: str) -> Served:
    path = await asyncio.to_thread(self._index.path, name)  # may search folders
    step = await asyncio.to_thread(summaries.newest_weights, path)
    if step is None:
      raise errors.UserError(f"runs: {name} has no selected weights yet; wait, or use another")
    entry = self._entries.get(name)
    if entry is None or _is_outdated(entry, step):
      entry = _Entry(asyncio.create_task(self._load_one(name, path)), step, time.monotonic())
      self._entries[name] = entry
    self._entries.move_to_end(name)
    while len(self._entries) > MAX_NETWORKS:
      self._entries.popitem(last=False)
    return await asyncio.shield(entry.served)  # a cancelled request does not stop it

  async def _load_one(self, name: str, path: pathlib.Path) -> Served:
    begin = time.monotonic()
    network, run = await self._run(self._load, lambda: _load_compiled(name, path))
    log.info("%s: loaded and compiled in %.1f s", name, time.monotonic() - begin)
    return Served(network, run, batching.Batcher(run.predict, self._compute))

  async def _classify_one(
    self, served: Sequence[Served], photo: Photo, limits: predict.Thresholds
  ) -> list[Row] | str:
    """Return the predictions of one photo, or why it cannot be read."""
    decodings = {one.network.decoding for one in served}
    try:
      pixels = await self._run(self._decode, lambda: _decode_each(photo, decodings))
    except Exception as error:  # depending on the bytes, Pillow raises almost anything
      return errors.printable(images.describe_error(error))
    answers = await asyncio.gather(
      *(one.batcher.submit(pixels[one.network.decoding]) for one in served)
    )
    return [
      predict.describe_prediction(one.network, probabilities, limits)
      for one, probabilities in zip(served, answers, strict=True)
    ]

  async def _run(self, executor: futures.Executor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(executor, work)


def _is_outdated(entry: _Entry, step: int) -> bool:
  """Return whether to load a network again: it failed to load, or training has better weights."""
  if not entry.served.done():
    return False
  if entry.served.cancelled() or entry.served.exception() is not None:
    return True
  return entry.step != step and time.monotonic() - entry.loaded_at > _SECONDS_BETWEEN_RELOADS


def _load_compiled(name: str, path: pathlib.Path) -> tuple[predict.Network, Run]:
  """Load a network and compile it for every size of a batch, so that no request has to wait."""
  run = load_run(path)
  network = predict.Network(name, run, images.choose_decoding(run))
  for size in batching.SIZES:
    run.predict(np.zeros((size, *run.image_shape), np.uint8))
  return network, run


def _decode_each(
  photo: Photo, decodings: set[images.Decoding]
) -> dict[images.Decoding, np.ndarray]:
  content = photo.read()
  return {decoding: images.decode(content, *decoding) for decoding in decodings}


def _explain(served: Served, content: bytes, class_name: str) -> bytes:
  from PIL import Image

  network, run = served.network, served.run.in_float32()  # bfloat16 adds noise to gradients
  layers = gradients.find_feature_maps(run.model, run.variables, run.image_shape)
  if not layers:
    raise errors.UserError(f"run: {network.name} has no feature maps; use one with convolutions")
  try:
    pixels = images.decode(content, *network.decoding)[None]
    view = images.decode(content, (_HEAT_SIDE, _HEAT_SIDE, 3), *network.decoding[1:])
  except Exception as error:  # depending on the bytes, Pillow raises almost anything
    raise errors.UserError(f"image: {images.describe_error(error)}; send another") from error
  if class_name and class_name not in run.class_names:
    raise errors.UserError(f"class: {class_name!r} is unknown; use one of {run.class_names}")
  chosen = (
    run.class_names.index(class_name) if class_name else int(np.argmax(served.run.predict(pixels)))
  )
  inputs = run.prepare(pixels)
  layer = gradients.find_last_feature_map(layers)
  heat = np.asarray(
    gradients.compute_grad_cam(run.model, run.variables, inputs, np.array([chosen]), layer)
  )[0]
  if run.config.get("eval_transform", ""):  # the map is of the transformed image
    factor = math.ceil(_HEAT_SIDE / pixels.shape[1])
    view = drawings.denormalize(run, inputs)[0].repeat(factor, 0).repeat(factor, 1)
  buffer = io.BytesIO()
  Image.fromarray(pictures.overlay_heat(view, heat)).save(buffer, "PNG")
  return buffer.getvalue()
