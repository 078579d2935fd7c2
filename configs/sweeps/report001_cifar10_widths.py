"""Report 001's grid search, task 2: the basic CNN on CIFAR-10 with widths 256 and 128.

The report found 256 better: 65.7 % validation against 60.5 %.
"""

from configs import sweeps
from configs.reproductions import report001_basic_cnn


def get_sweep() -> sweeps.Sweep:
  widths = [(256, 256, 256), (128, 128, 128)]
  return sweeps.grid({"model.widths": widths}, base=report001_basic_cnn)
