r"""Report 003, CIFAR-10: the ELU ResNet-18 with strong dropout, 86.75 % test.

  python main.py --config=configs/reproductions/report003_cifar10.py \
    --workdir=runs/report003_cifar10

Reported: 86.75 % test accuracy; the rate falls around epoch 105. Ours: not run.

From the report's text for CIFAR-10: dropout 0.5 in the blocks and 0.3 before the classifier, random
crops and flips, and a learning rate that falls to a tenth after 10 epochs without a lower
validation loss. From its code, which is printed for CIFAR-100: Adam at Keras' 1e-3, batches of 128,
200 epochs, the last fifth of the training images for validation, 4 pixels of padding, a lowest rate
of 1e-4, and the penalties. The code's other dropout rates are those of report003_cifar100. The code
saves no checkpoint: the weights of the last epoch are tested.

The penalty of 1e-5 on the stem and the shortcuts is ten times smaller than the 1e-4 on the other
convolutions, as printed. The monitored loss is Keras' and includes the penalty: `val_objective`.

In the report, padding and RandomCrop are layers of the network. The RandomCrop of TensorFlow 2.6,
then current, crops all images of a batch at the same place (`batch_crop`), and at inference resizes
the padded image to 32×32 (`pad_and_resize`). So the network is validated and tested on objects of
0.8 times the size of those that it was trained on. report003_cifar10_corrected shows what this
costs.
"""

import ml_collections

from configs import default

REPORTED = "86.75 % test"


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name = "elu_resnet18"
  config.model.head_dropout = 0.3
  config.model.spatial_dropout = 0.0
  config.data.normalize = "unit"
  config.data.validation = "last:0.2"
  config.num_epochs = 200
  config.batch_size = 128
  config.augment = "batch_crop(padding=4) | random_flip()"
  config.eval_transform = "pad_and_resize(padding=4)"
  config.loss.l2 = (("(stem_conv|shortcut_conv)/kernel$", 1e-5), ("conv.?/kernel$", 1e-4))
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.plateau.monitor = "val_objective"
  config.plateau.factor = 0.1
  config.plateau.patience = 10
  config.plateau.min_lr = 1e-4
  config.select.monitor = ""
  return config
