r"""Report 003, CIFAR-10: a cyclical learning rate, which "didn't work out so well".

  python main.py --config=configs/reproductions/report003_super_convergence.py \
    --workdir=runs/report003_super_convergence

Reported: no figures. Ours: not run.

The report wanted "to replicate the super convergence paper". It cites Smith 2017 (arXiv:1506.01186)
and an article by Thomas 2021, which cycles the rate between 0.0007 and 0.007 for 16 epochs to train
a super-resolution network. It does not name the network, the rates or the cycle of its run. Chosen
here: the network and recipe of report003_cifar10 with a cycle in place of the plateau. The rate
moves linearly between Adam's usual 1e-3 and 4 times that (Smith's ratio), for 4 epochs each way
(Smith recommends 2 to 10).

Smith & Topin 2018, who named super-convergence, use one cycle: --config.schedule.name=one_cycle
"""

import ml_collections

from configs.reproductions import report003_cifar10

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report003_cifar10.get_config()
  config.optimizer.learning_rate = 4e-3
  config.schedule.name = "cyclical"
  config.plateau.monitor = ""
  return config
