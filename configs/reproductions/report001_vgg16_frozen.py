"""Report 001, task 1: dense layers on VGG-16's frozen convolutions, 90.7 % test in the report.

The convolutions with their ImageNet weights, which stay as they are, then 512 units and one logit:
4,195,329 of 18,910,017 parameters are trained. Adam 1e-3 and batches of 32, the best of the basic
network's grid; 10 epochs, the last weights. The photos are those of report001_cats_vs_dogs. They
are not augmented, so what the base makes of them is computed once, before training.

The report took Keras' weights and gave them pixels / 255 instead of what they were trained on (see
models/pretrained.py), and so does this config. Its default, 'timm', downloads torchvision's
weights, which expect other pixels again; for Keras' own, name their file:

  python main.py --config=configs/reproductions/report001_vgg16_frozen.py \
    --workdir=runs/report001_vgg16_frozen --config.data.source=PHOTOS \
    --config.model.pretrained=vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5

A .safetensors file with torchvision's names does as well, where nothing can be downloaded.
"""

import ml_collections

from configs.reproductions import report001_cats_vs_dogs

REPORTED = "90.7 % test, 90.6 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report001_cats_vs_dogs.get_config()
  config.model.name = "vgg16"
  del config.model.widths  # VGG-16 has its own
  config.model.pretrained = "timm"
  config.optimizer.freeze = ("^base/",)
  return config
