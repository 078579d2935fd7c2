"""Names for the trees of arrays that pass between modules."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

# A tree of arrays whose structure a function does not look into.
PyTree: TypeAlias = Any
Array: TypeAlias = jax.Array | np.ndarray
# A network's weights by module, or its moving statistics: nested mappings with arrays as leaves.
Params: TypeAlias = Mapping[str, Any]
# What Flax calls a network's variables: {'params': Params, 'batch_stats': Params}.
Variables: TypeAlias = Mapping[str, Params]
# One device's examples: 'image', 'label', and 'target' in training or 'mask' in evaluation.
Batch: TypeAlias = Mapping[str, Any]
# Scalars of a step by name, such as 'loss'; with several seeds each has the shape [seeds].
Metrics: TypeAlias = dict[str, jax.Array]
# A row of metrics.jsonl, or what another JSON file of a run folder holds.
Row: TypeAlias = dict[str, Any]


class StreamedExamples(NamedTuple):
  """Examples that travel with a dispatch; the leading axes are those of the tuple that holds them.

  Attributes:
    numbers: [..., b] int32, the numbers of the examples.
    images: [..., b, height, width, channels] uint8.
    labels: [..., b] int32.
  """

  numbers: Array
  images: Array
  labels: Array


class TrainShard(NamedTuple):
  """What one process's devices receive for a dispatch of training steps.

  Attributes:
    rows: [local devices, b] int32, the rows of the global batch that each device holds.
    examples: [local devices, steps, b, ...], or None if the dataset is resident on the devices.
  """

  rows: Array
  examples: StreamedExamples | None = None


class EvalShard(NamedTuple):
  """What one process's devices receive for a dispatch of evaluation batches.

  Attributes:
    numbers: [local devices, batches, b] int32, the numbers of the examples.
    mask: [local devices, batches, b] bool; False marks padding.
    examples: [local devices, batches, b, ...], or None if the dataset is resident on the devices.
  """

  numbers: Array
  mask: Array
  examples: StreamedExamples | None = None


class ResidentData(NamedTuple):
  """A dataset that lives on every device; every field is None where examples are streamed.

  Attributes:
    images: [n, height, width, channels] uint8, training images first, then test images.
    labels: [n] int32.
    order: [examples] int32, the examples in the order of the epoch, with several seeds
      [seeds, examples]; None in evaluation.
    num_steps: [] int32, the steps of the dispatch, for a program that takes any number of them.
  """

  images: Array | None = None
  labels: Array | None = None
  order: Array | None = None
  num_steps: Array | None = None

  def gather(self, numbers: Array) -> StreamedExamples:
    """Return the examples of these numbers; for use inside a compiled program."""
    assert self.images is not None and self.labels is not None
    return StreamedExamples(numbers, self.images[numbers], self.labels[numbers])
