"""Report 001, task 1: the frozen VGG-16 on augmented photos, 84.6 % test in the report.

Dense layers trained anew on ImageNet's convolutions, as in report001_vgg16_frozen, but for the
transformations of Keras' ImageDataGenerator. Two of its arguments do less than they seem to:
shear_range=0.2 is in degrees, a quarter of a pixel at the photo's edge; horizontal_flip=0.2 is
only asked whether it is true, so that every other photo is flipped, not every fifth.

Only training photos are transformed here. The report's "new data generators" may have done so to
validation and test photos too, which would explain why its test accuracy fell from 90.7 % while
the training accuracy, 86.6 %, is hardly above it.

The base has to look at every photo anew, which takes long without an accelerator.
"""

import ml_collections

from configs.reproductions import report001_vgg16_frozen

REPORTED = "84.6 % test, 85.2 % validation"


def get_config() -> ml_collections.ConfigDict:
  config = report001_vgg16_frozen.get_config()
  config.augment = (
    "random_affine(rotation=40, shift=(0.2, 0.2), shear=0.2, zoom=0.2, flip=True, "
    "fill_mode='nearest')"
  )
  return config
