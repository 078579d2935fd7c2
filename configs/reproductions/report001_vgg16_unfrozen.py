r"""Report 001, task 1: the frozen run continued with nothing frozen, 91.9 % test.

  python main.py --config=configs/reproductions/report001_vgg16_frozen.py \
    --workdir=runs/report001_vgg16_frozen --config.data.source=PHOTOS \
    --config.model.pretrained=vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5
  python main.py --config=configs/reproductions/report001_vgg16_unfrozen.py \
    --workdir=runs/report001_vgg16_unfrozen --config.data.source=PHOTOS \
    --config.model.pretrained=runs/report001_vgg16_frozen

Reported: 91.9 % test (loss 0.394), 91.7 % validation and 100 % training accuracy. Ours: not run.

All 18,910,017 parameters train, for 5 epochs with a new Adam at 1e-6. (The report's "layers
increase from 4 to 30" counts arrays of weights, two for each layer.) Training starts from the
weights of a finished run of report001_vgg16_frozen, whose folder model.pretrained names. The folder
above is the default, so the last option may be omitted.

The photos and all data options must be those of the first run. With another split, this run would
train on photos that the first run tests on.
"""

import ml_collections

from configs.reproductions import report001_vgg16_frozen

REPORTED = "91.9 % test (loss 0.394), 91.7 % validation, 100 % training"


def get_config() -> ml_collections.ConfigDict:
  config = report001_vgg16_frozen.get_config()
  config.model.pretrained = "runs/report001_vgg16_frozen"
  config.num_epochs = 5
  config.optimizer.learning_rate = 1e-6
  config.optimizer.freeze = ()
  return config
