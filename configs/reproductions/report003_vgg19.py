"""Report 003, CIFAR-10: the network on the model of VGG-19 at a constant rate, whose loss spiked.

  python main.py --config=configs/reproductions/report003_vgg19.py --workdir=runs/report003_vgg19

Reported: a plot in which the loss spikes and the accuracy falls; no figures. Ours: not run.

The report prints neither the network nor the recipe. models/vgg.py explains the network (20,554,826
parameters). Adam at Keras' 1e-3, batches of 128, 200 epochs and a fifth for validation are from the
later code, as in report003_cifar10. This config has no crops and flips, and so no resizing at
inference, because the text introduces them with the residual networks; no plateau, which it
introduces with the last of them; and no penalties, which are printed for the layers of the residual
networks.
"""

import ml_collections

from configs.reproductions import report003_cifar10

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report003_cifar10.get_config()
  config.model.name = "vgg19_cifar"
  del config.model.head_dropout, config.model.spatial_dropout  # the residual network's
  config.augment = config.eval_transform = ""
  config.loss.l2 = ()
  config.plateau.monitor = ""
  return config
