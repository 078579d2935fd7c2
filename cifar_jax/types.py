"""Names for the trees of arrays that pass between modules."""

from collections.abc import Mapping
from typing import Any, TypeAlias

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
Batch: TypeAlias = Mapping[str, jax.Array]
# Scalars of a step by name, such as 'loss'; with several seeds each has the shape [seeds].
Metrics: TypeAlias = dict[str, jax.Array]
# A row of metrics.jsonl, or what another JSON file of a run folder holds.
Row: TypeAlias = dict[str, Any]
