r"""Report 001, task 2: the basic CNN on CIFAR-10, 65.7 % validation.

  python main.py --config=configs/reproductions/report001_basic_cnn.py \
    --workdir=runs/report001_basic_cnn

Reported: 65.7 % validation and 78.5 % training accuracy; the test accuracy is "similar to
validation". Ours: not run.

The network has three stages of convolution, ReLU, 2×2 max pooling and batch norm, of width 256, the
better of the report's two widths (the other is 128). It trains for 60 epochs with Adam at 1e-5 and
batches of 1,024. The weights of the last epoch count.

The report does not print the kernel size and padding of this network (models/basic_cnn.py explains
the choice; report001_basic_cnn_128 tries both paddings), nor how it splits the images; here a tenth
of the official training images is used for validation. Keras also trains on the smaller last batch
of an epoch (44 steps), which is dropped here (43).
"""

import ml_collections

from configs import default

REPORTED = "65.7 % validation, similar on test, 78.5 % training"


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name = "basic_cnn"
  config.model.widths = (256, 256, 256)
  config.model.padding = "valid"
  config.data.normalize = "unit"
  config.num_epochs = 60
  config.batch_size = 1024
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-5
  config.select.monitor = ""
  return config
