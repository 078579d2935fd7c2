r"""Report 001's grid search of task 2: the basic CNN on CIFAR-10 with widths of 256 and 128.

  python main.py --mode=sweep --sweep=configs/sweeps/report001_cifar10_widths.py \
    --workdir=runs/report001_widths

Reported: 65.7 % validation accuracy with 256, 60.5 % with 128. The configs report001_basic_cnn and
report001_basic_cnn_128 have our figures.
"""

from configs import sweeps
from configs.reproductions import report001_basic_cnn


def get_sweep() -> sweeps.Sweep:
  widths = [(256, 256, 256), (128, 128, 128)]
  return sweeps.grid({"model.widths": widths}, base=report001_basic_cnn)
