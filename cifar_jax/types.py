"""Types of the trees of arrays that modules exchange."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

# A tree of arrays, for functions that accept any structure.
PyTree: TypeAlias = Any
Array: TypeAlias = jax.Array | np.ndarray
# A network's weights by module, or its moving statistics: nested mappings with arrays as leaves.
Params: TypeAlias = Mapping[str, Any]
# A network's variables in Flax's sense: {'params': Params, 'batch_stats': Params}.
Variables: TypeAlias = Mapping[str, Params]
# One device's examples: 'image', 'label', and 'target' in training or 'mask' in evaluation.
Batch: TypeAlias = Mapping[str, Any]
# Scalars of a step by name, such as 'loss'; with several seeds each has the shape [seeds].
Metrics: TypeAlias = dict[str, jax.Array]
# A row of metrics.jsonl, or the contents of another JSON file of a run folder.
Row: TypeAlias = dict[str, Any]


class StreamedExamples(NamedTuple):
  """Examples that are sent with a dispatch; `...` are the leading axes that the shard lists.

  Attributes:
    numbers: [..., b] int32, the numbers of the examples.
    images: [..., b, height, width, channels] uint8.
    labels: [..., b] int32.
  """

  numbers: Array
  images: Array
  labels: Array


class TrainShard(NamedTuple):
  """The inputs of one process's devices for a dispatch of training steps.

  Attributes:
    rows: [local devices, b] int32, the rows of the global batch that each device holds.
    examples: [local devices, steps, b, ...], or None if the dataset is resident on the devices.
  """

  rows: Array
  examples: StreamedExamples | None = None


class EvalShard(NamedTuple):
  """The inputs of one process's devices for a dispatch of evaluation batches.

  Attributes:
    numbers: [local devices, batches, b] int32, the numbers of the examples.
    mask: [local devices, batches, b] bool; False marks padding.
    examples: [local devices, batches, b, ...], or None if the dataset is resident on the devices.
  """

  numbers: Array
  mask: Array
  examples: StreamedExamples | None = None


class ResidentData(NamedTuple):
  """A dataset that is resident on every device; all fields are None if examples are streamed.

  Attributes:
    images: [n, height, width, channels] uint8, training images first, then test images.
    labels: [n] int32.
    order: [examples] int32, the numbers of the examples in the order of the epoch; with several
      seeds [seeds, examples]; None in evaluation.
    num_steps: [] int32, the number of steps, for a program that runs any number per dispatch.
  """

  images: Array | None = None
  labels: Array | None = None
  order: Array | None = None
  num_steps: Array | None = None

  def gather(self, numbers: Array) -> StreamedExamples:
    """Return the examples with these numbers; for use inside a compiled program."""
    assert self.images is not None and self.labels is not None
    return StreamedExamples(numbers, self.images[numbers], self.labels[numbers])
