"""PyTorch's side of benchmarks.speed.photos: a DataLoader over JPEGs that Pillow decodes.

The dataset is written as is usual in PyTorch: a list of files; __getitem__ decodes, crops and
resizes a photo. Prints its figures as JSON.
"""

import argparse
import json
import pathlib
import time

import numpy as np
import torch
from PIL import Image


class Photos(torch.utils.data.Dataset):
  """Photos in a folder for each class, as (image [3, size, size] uint8, label)."""

  def __init__(self, folder, size):
    classes = sorted(path for path in pathlib.Path(folder).iterdir() if path.is_dir())
    self.files = [(p, label) for label, path in enumerate(classes) for p in sorted(path.iterdir())]
    self.size = size

  def __len__(self):
    return len(self.files)

  def __getitem__(self, i):
    path, label = self.files[i]
    with Image.open(path) as image:
      image = image.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), label


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--photos", required=True)
  for name in ("size", "batch", "workers"):
    parser.add_argument(f"--{name}", type=int, required=True)
  options = parser.parse_args()
  torch.set_num_threads(1)
  torch.manual_seed(0)
  start = time.monotonic()
  loader = torch.utils.data.DataLoader(
    Photos(options.photos, options.size),
    batch_size=options.batch,
    shuffle=True,
    drop_last=True,
    num_workers=options.workers,
  )
  batches = iter(loader)
  images, _ = next(batches)
  assert images.shape == (options.batch, 3, options.size, options.size)
  first = time.monotonic()
  num_images = sum(len(images) for images, _ in batches)
  seconds = time.monotonic() - first
  print(
    json.dumps({"first_batch_seconds": first - start, "images_per_second": num_images / seconds})
  )


if __name__ == "__main__":
  main()
