r"""Search for the fewest epochs in which ResNet-18 reaches 95.0, 95.5 and 96.0 % on CIFAR-10.

  python main.py --mode=sweep --sweep=configs/sweeps/resnet18_short.py --workdir=/tmp/short

27 trials of resnet18_cutout's recipe, 945 epochs in all: 15, 30 and 60 epochs, each with three
learning rates, since the best rate depends on the length, and each of these with three seeds. On an
accelerator the nine trials of a length train together. The same command resumes the sweep. If it is
started several times with at_once=3, the processes share the trials.

The ranking (printed, and in sweep.json) has the mean validation accuracy of each length and rate.
For each target choose the fewest epochs whose best rate reaches it. For a test accuracy to publish,
train the chosen length and rate with other seeds on all training images, for instance

  python main.py --config=configs/resnet18_cutout.py --workdir=/tmp/final \
    --config.num_epochs=30 --config.optimizer.learning_rate=0.2 --config.data.validation=0 \
    --config.select.monitor= --config.seed=3 --config.num_seeds=5

Ours: not run.
"""

from configs import resnet18_cutout, sweeps


def get_sweep() -> sweeps.Sweep:
  fields: dict[str, list[float]] = {
    "num_epochs": [15, 30, 60],
    "optimizer.learning_rate": [0.05, 0.1, 0.2],
    "seed": [0, 1, 2],
  }
  return sweeps.grid(fields, base=resnet18_cutout)
