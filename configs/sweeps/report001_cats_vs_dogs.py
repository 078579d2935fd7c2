"""Report 001's grid search, task 1: Adam 1e-4 or 1e-3, three convolutions of width 32 or 64.

The report found the four alike and 1e-3 with 32 best by a little. The photos are named by --config
and an override: --config=configs/reproductions/report001_cats_vs_dogs.py --config.data.source=…
"""

from configs import sweeps
from configs.reproductions import report001_cats_vs_dogs


def get_sweep() -> sweeps.Sweep:
  return sweeps.grid(
    {"model.widths": [(32, 32, 32), (64, 64, 64)], "optimizer.learning_rate": [1e-4, 1e-3]},
    base=report001_cats_vs_dogs,
  )
