"""Report 003, CIFAR-10: a cyclical learning rate, which "didn't work out so well" there.

The report wanted to "replicate the super convergence paper" and cites Smith 2017 on cyclical
rates; it names no network, rates or cycle. Chosen here: the network and recipe of
report003_cifar10, the cycle in the place of its plateau; straight lines between Adam's usual 1e-3
and 4 times that, the paper's ratio, 4 epochs each way, of the paper's 2 to 10. The one cycle of
Smith & Topin 2018, who named super-convergence, is --config.schedule.name=one_cycle.
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
