r"""Report 001, task 1: dense layers on VGG-16's frozen convolutions, 90.7 % test.

  python main.py --config=configs/reproductions/report001_vgg16_frozen.py \
    --workdir=runs/report001_vgg16_frozen --config.data.source=PHOTOS \
    --config.model.pretrained=vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5

Reported: 90.7 % test (loss 0.352), 90.6 % validation and 100 % training accuracy. Ours: not run.

The convolutions keep their ImageNet weights. 512 units and one logit follow: 4,195,329 of
18,910,017 parameters are trained, for 10 epochs with Adam at 1e-3 and batches of 32, the best
point of the basic network's grid. The weights of the last epoch count. The photos are those of
report001_cats_vs_dogs. They are not augmented, so the output of the convolutions is computed once,
before training.

The report used Keras' weights, and gave them pixels / 255 instead of images prepared as in their
training (see models/pretrained.py). This config does the same. The command above names the file of
Keras' weights; the default, 'timm', downloads torchvision's weights, which expect yet another
preparation. Without a network connection a .safetensors file with torchvision's names works too.
"""

import ml_collections

from configs.reproductions import report001_cats_vs_dogs

REPORTED = "90.7 % test (loss 0.352), 90.6 % validation, 100 % training"


def get_config() -> ml_collections.ConfigDict:
  config = report001_cats_vs_dogs.get_config()
  config.model.name = "vgg16"
  del config.model.widths, config.model.padding  # VGG-16 has its own
  config.model.pretrained = "timm"
  config.optimizer.freeze = ("^base/",)
  return config
