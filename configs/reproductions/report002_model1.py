"""Report 002, model 1: two LeNet-like stages (2,233,898 parameters), 73.9 % validation.

Trained on data_batch_2, then 3, 4 and 5, 35 epochs each, in batches of 64, and validated on
data_batch_1; L2 1e-4 on the kernels of the convolutions, dropout 0.25 and 0.4. There are no
callbacks: the last epoch's weights are reported.

The report makes an RMSprop(1e-4, decay 1e-6) and then compiles with 'adam': Keras' Adam at 1e-3 is
what it ran and what is used here. It does not print how pixels are scaled; here they are divided
by 255. Keras trains on the last, smaller batch of an epoch too (157 steps); here it is dropped.
"""

import ml_collections

from configs import default

REPORTED = "73.9 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = default.get_config()
  config.model.name = "lenet2"
  config.data.normalize = "unit"
  config.data.validation = "batch_1"
  config.data.file_by_file = True
  config.num_epochs = 4 * 35
  config.batch_size = 64
  config.loss.l2 = (("conv.*kernel$", 1e-4),)
  config.optimizer.name = "adam"
  config.optimizer.learning_rate = 1e-3
  config.select.monitor = ""
  return config
