"""How few epochs ResNet-18 needs for 95.0, 95.5 and 96.0 %: 27 trials of 15, 30 and 60 epochs.

  python main.py --mode=sweep --sweep=configs/sweeps/resnet18_short.py --workdir=/tmp/short

Each length has three learning rates, since the best one changes with it, and each of these three
seeds; the recipe is resnet18_cutout's, 945 epochs of it in all. On an accelerator the nine trials
of a length train together. The same command goes on where it stood; --task divides the trials.

To read it: the ranking, printed and in sweep.json, has the mean validation accuracy of each length
and rate. For each target take the fewest epochs whose best rate reaches it by validation. For a
test accuracy to quote train what was chosen with further seeds, on all training images:

  python main.py --config=configs/resnet18_cutout.py --workdir=/tmp/quoted \\
    --config.num_epochs=30 --config.optimizer.learning_rate=0.2 --config.data.validation=0 \\
    --config.select.monitor= --config.seed=3 --config.num_seeds=5

(30 and 0.2 stand for what was found.) Ours: not run.
"""

from configs import resnet18_cutout, sweeps


def get_sweep() -> sweeps.Sweep:
  fields = {
    "num_epochs": [15, 30, 60],
    "optimizer.learning_rate": [0.05, 0.1, 0.2],
    "seed": [0, 1, 2],
  }
  return sweeps.grid(fields, base=resnet18_cutout)
