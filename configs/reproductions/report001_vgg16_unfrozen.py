"""Report 001, task 1: the frozen run continued with nothing frozen, 91.9 % test in the report.

All 18,910,017 parameters ("layers increase from 4 to 30": arrays of weights, two for each
convolution), Adam 1e-6 anew, 5 epochs. It starts from the weights of a finished run of
report001_vgg16_frozen, whose folder model.pretrained names:

  python main.py --config=configs/reproductions/report001_vgg16_frozen.py \
    --workdir=runs/report001_vgg16_frozen --config.data.source=PHOTOS
  python main.py --config=configs/reproductions/report001_vgg16_unfrozen.py \
    --workdir=runs/report001_vgg16_unfrozen --config.data.source=PHOTOS \
    --config.model.pretrained=runs/report001_vgg16_frozen

The last option may be left out, for this folder is the default. The photos, and whatever data
options were changed, must be the first run's: with another split its test photos would be trained
on.
"""

import ml_collections

from configs.reproductions import report001_vgg16_frozen

REPORTED = "91.9 % test, 91.7 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report001_vgg16_frozen.get_config()
  config.model.pretrained = "runs/report001_vgg16_frozen"
  config.num_epochs = 5
  config.optimizer.learning_rate = 1e-6
  config.optimizer.freeze = ()
  return config
