"""Our side of benchmarks.speed.photos: prepare the photos, or read one epoch of batches.

Prints its figures as JSON.
"""

import argparse
import json
import time


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--photos", required=True)
  parser.add_argument("--data_dir", required=True)
  for name in ("size", "batch", "workers"):
    parser.add_argument(f"--{name}", type=int, required=True)
  parser.add_argument("--decode_once", action="store_true")
  parser.add_argument("--prepare", action="store_true")
  options = parser.parse_args()
  import grain  # noqa: F401  (imported before the clock starts, as PyTorch is)
  import jax
  import numpy as np

  from cifar_jax.data import datasets, sources

  jax.devices()
  start = time.monotonic()
  decoding = {
    "size": options.size,
    "crop": "center",
    "interpolation": "bilinear",
    "decode_once": options.decode_once,
    "test_fraction": 0.02,
  }
  dataset = datasets.load("image_folder", options.data_dir, options.photos, decoding)
  if options.prepare:
    print(json.dumps({"prepare_seconds": time.monotonic() - start}))
    return
  num_train = len(dataset.train.labels)
  order = np.random.default_rng(0).permutation(num_train).astype(np.int32)
  num_steps = num_train // options.batch
  source = sources.StreamedSource(dataset, options.workers)
  batches = source.train(jax.numpy.asarray(order), options.batch, 0, [1] * num_steps)
  shard, _ = next(batches)
  assert shard.examples is not None and shard.examples.images.shape[-3:-1] == (options.size,) * 2
  first = time.monotonic()
  num_images = sum(shard.examples.labels.size for shard, _ in batches if shard.examples is not None)
  seconds = time.monotonic() - first
  print(
    json.dumps({"first_batch_seconds": first - start, "images_per_second": num_images / seconds})
  )


if __name__ == "__main__":
  main()
