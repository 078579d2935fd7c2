"""Batches out of single images."""

import asyncio
from concurrent import futures

import numpy as np
import pytest

from serve import batching


def answers(compute, images, cancel=()):
  """Submit images at the same time; return the answers, exceptions included."""

  async def submit_all():
    with futures.ThreadPoolExecutor(1) as executor:
      batcher = batching.Batcher(compute, executor)
      tasks = [asyncio.create_task(batcher.submit(image)) for image in images]
      await asyncio.sleep(0)
      for i in cancel:
        tasks[i].cancel()
      return await asyncio.gather(*tasks, return_exceptions=True)

  return asyncio.run(submit_all())


@pytest.mark.parametrize(
  ("count", "sizes"), [(1, [1]), (2, [4]), (5, [16]), (16, [16]), (17, [64]), (65, [64, 1])]
)
def test_images_that_wait_together_are_one_batch_of_a_fixed_size(count, sizes):
  called = []

  def double(images):
    called.append(len(images))
    return 2 * images

  images = [np.array([i, i + 1]) for i in range(count)]
  np.testing.assert_array_equal(answers(double, images), [2 * image for image in images])
  assert called == sizes


def test_images_collect_while_a_batch_is_computed():
  called = []

  async def submit_later():
    with futures.ThreadPoolExecutor(1) as executor:
      loop, begun = asyncio.get_running_loop(), asyncio.Event()

      def compute(images):
        called.append(len(images))
        if len(called) == 1:
          loop.call_soon_threadsafe(begun.set)
          asyncio.run_coroutine_threadsafe(all_submitted.wait(), loop).result()
        return images

      all_submitted = asyncio.Event()
      batcher = batching.Batcher(compute, executor)
      first = asyncio.create_task(batcher.submit(np.zeros(1)))
      await begun.wait()
      others = [asyncio.create_task(batcher.submit(np.ones(1))) for _ in range(3)]
      await asyncio.sleep(0)
      all_submitted.set()
      return await asyncio.gather(first, *others)

  assert np.ravel(asyncio.run(submit_later())).tolist() == [0, 1, 1, 1]
  assert called == [1, 4]


def test_an_error_reaches_every_request_of_its_batch_and_no_other():
  def fail_once(images):
    if images.max() < 64:
      raise ValueError("too dark")
    return images

  results = answers(fail_once, [np.array(i) for i in range(66)])
  assert [type(result) for result in results[:64]] == [ValueError] * 64
  assert results[64:] == [64, 65]


def test_images_of_requests_that_were_given_up_are_left_out():
  called = []

  def compute(images):
    called.append(images.tolist())
    return images

  results = answers(compute, [np.array(i) for i in range(3)], cancel=[0, 2])
  assert isinstance(results[0], asyncio.CancelledError)
  assert results[1] == 1
  assert called == [[1]]
