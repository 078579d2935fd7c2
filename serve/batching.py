"""Collect the images of several requests in batches."""

import asyncio
import collections
from collections.abc import Callable
from concurrent import futures
from typing import NamedTuple

import numpy as np

# The batch sizes that a network is compiled for; batches are padded to the next one.
SIZES: tuple[int, ...] = (1, 4, 16, 64)
_SECONDS_TO_COLLECT = 0.003


class _Waiting(NamedTuple):
  """An image and the future of its answer."""

  image: np.ndarray
  answer: "asyncio.Future[np.ndarray]"


class Batcher:
  """Calls a function on batches of images that requests submit one by one.

  While a batch is computed, the next one is collected. All calls are made in one event loop.

  Args:
    compute: maps images [n, ...] to answers [n, ...]; called with n in `SIZES`.
    executor: runs `compute`.
  """

  def __init__(self, compute: Callable[[np.ndarray], np.ndarray], executor: futures.Executor):
    self._compute, self._executor = compute, executor
    self._waiting: collections.deque[_Waiting] = collections.deque()
    self._worker: asyncio.Task[None] | None = None

  async def submit(self, image: np.ndarray) -> np.ndarray:
    """Return the answer for one image; raise what `compute` raised for its batch."""
    answer = asyncio.get_running_loop().create_future()
    self._waiting.append(_Waiting(image, answer))
    if self._worker is None:
      self._worker = asyncio.create_task(self._answer_all())
    return await answer

  async def _answer_all(self) -> None:
    try:
      while self._waiting:
        if len(self._waiting) < SIZES[-1]:
          await asyncio.sleep(_SECONDS_TO_COLLECT)
        await self._answer_batch()
    finally:
      self._worker = None

  async def _answer_batch(self) -> None:
    batch: list[_Waiting] = []
    while self._waiting and len(batch) < SIZES[-1]:
      waiting = self._waiting.popleft()
      if not waiting.answer.done():  # the request may have been cancelled
        batch.append(waiting)
    if not batch:
      return
    padded = pad(np.stack([waiting.image for waiting in batch]))
    loop = asyncio.get_running_loop()
    try:
      answers = await loop.run_in_executor(self._executor, self._compute, padded)
    except Exception as error:
      for waiting in batch:
        if not waiting.answer.done():
          waiting.answer.set_exception(error)
      return
    for waiting, answer in zip(batch, answers[: len(batch)], strict=True):
      if not waiting.answer.done():
        waiting.answer.set_result(answer)


def pad(images: np.ndarray) -> np.ndarray:
  """Pad images [n, ...] to the next of `SIZES` by repeating them."""
  size = next(size for size in SIZES if size >= len(images))
  return np.resize(images, (size, *images.shape[1:]))
