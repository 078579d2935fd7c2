"""Report 003, CIFAR-10: the network after VGG-19 at a constant rate, whose loss spiked.

The report prints a plot of this, and neither the network nor the recipe. models/vgg.py says what
was chosen for the network (20,554,826 parameters); Adam at Keras' 1e-3, batches of 128, 200 epochs
and a fifth for validation are the later code's, as in report003_cifar10. By the text crops and
flips came with the residual networks and the plateau with the last of them, and the penalties are
printed for their layers: here is none of these.
"""

import ml_collections

from configs.reproductions import report003_cifar10

REPORTED = "none printed"


def get_config() -> ml_collections.ConfigDict:
  config = report003_cifar10.get_config()
  config.model.name = "vgg19_cifar"
  del config.model.head_dropout, config.model.spatial_dropout  # the residual network's
  config.augment = ""
  config.loss.l2 = ()
  config.plateau.monitor = ""
  return config
