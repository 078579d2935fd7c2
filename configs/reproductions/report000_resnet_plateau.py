r"""Report 000, section d: the ResNet of 1×1 and 3×3 convolutions with ReduceLROnPlateau.

  python main.py --config=configs/reproductions/report000_resnet_plateau.py \
    --workdir=runs/report000_resnet_plateau

Reported: 91.5 % validation accuracy in the printed notebook and about 92.5 % in an earlier one; the
text has "91.5 -> 93%". The report validates on the test images, so these figures were selected on
the test set. Ours: not run.

The network has 10,489,674 parameters, an L2 penalty of 5e-4 on every kernel, and dropout 0.3. SGD
with Nesterov momentum 0.9 starts at a rate of 0.1, which is halved after 5 epochs without a better
validation loss. The checkpoint with the best validation accuracy counts. This is our choice: the
listing also has early stopping that restores the weights of the lowest loss. Batch size, epochs,
early stopping and augmentation are those of the simple CNN.

The text says that the plateau watches the validation accuracy; the listing has val_loss, which is
used here. In Keras that loss includes the L2 penalty: it is `val_objective` here. The report says
that early stopping let training continue for very many epochs: `val_objective` falls for as long as
the penalty falls.
"""

import ml_collections

from configs.reproductions import report000_simple_cnn

REPORTED = "91.5–93 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report000_simple_cnn.get_config()
  config.model.name = "pointwise_resnet"
  config.loss.l2 = (("kernel$", 5e-4),)
  config.optimizer.name = "sgd"
  config.optimizer.learning_rate = 0.1
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = True
  config.plateau.monitor = "val_objective"
  config.early_stopping.monitor = "val_objective"
  config.select.monitor = "val_accuracy"
  config.select.mode = "max"
  return config
