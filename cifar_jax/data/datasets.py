"""Data sets by name: found, fetched, checked, decoded once, and mapped into memory ever after.

To add one, write a module here with a function that returns a `cache.Decoded`, and give it a line
in `REGISTRY`.

Under the data directory (TFDS's own: the environment variable TFDS_DATA_DIR, or
~/tensorflow_datasets) each data set has a folder that holds

  <version>/          the TFDS data set in ArrayRecord, if TFDS knows the data set
  decoded-<version>/  the decoded arrays (see cache.py)
  preparing/          what is half made; never read, cleared by the next to prepare
  prepare.lock        held while preparing

Where a data set has options, or is whatever the source holds, there is a
`decoded-<version>-<16 hex digits>/` for each source and choice of options. Any of them may be
deleted: it is made again when it is next wanted.
"""

import contextlib
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from etils import epath

from cifar_jax import errors, registry
from cifar_jax.data import cache, cifar, digits, image_folder, mnist
from cifar_jax.data.cache import Dataset, Split
from cifar_jax.data.fetch import Unavailable
from cifar_jax.runs import locks
from cifar_jax.runtime.console import log

__all__ = [
  "REGISTRY",
  "Dataset",
  "Entry",
  "Split",
  "Unavailable",
  "form",
  "known",
  "load",
  "prepare",
]


class Entry(NamedTuple):
  """One name in the registry.

  Attributes:
    folder: under the data directory; names that differ only in their labels share it.
    version: of the data.
    label: which kind of label the name stands for.
    decode: called with (folder's path, empty folder to work in, source or None); its further
      arguments, which have defaults, are the data set's options. JSON files that it leaves in the
      folder to work in are kept beside the decoded arrays.
    form: an image's height, width and channels, and the number of classes, where they are known
      without the data; a height and width of 0 stand for the option `size`.
    fingerprint: called with (folder's path, source or None) where the data are the user's own;
      equal only while the files behind the data set are the same.
  """

  folder: str
  version: str
  label: str
  decode: Callable[..., cache.Decoded]
  form: tuple[int, int, int, int] | None
  fingerprint: Callable[[epath.Path, epath.PathLike | None], str] = lambda home, source: ""


REGISTRY = {
  "cifar10": Entry("cifar10", "3.0.2", "label", cifar.CIFAR10.decode, (32, 32, 3, 10)),
  "cifar100": Entry("cifar100", "3.0.2", "label", cifar.CIFAR100.decode, (32, 32, 3, 100)),
  "cifar100_coarse": Entry(
    "cifar100", "3.0.2", "coarse_label", cifar.CIFAR100.decode, (32, 32, 3, 20)
  ),
  "digits": Entry("digits", "1.0.0", "label", digits.decode, (32, 32, 3, 10)),
  "mnist": Entry("mnist", "3.0.1", "label", mnist.MNIST.decode, (28, 28, 1, 10)),
  "fashion_mnist": Entry(
    "fashion_mnist", "3.0.1", "label", mnist.FASHION_MNIST.decode, (28, 28, 1, 10)
  ),
  "image_folder": Entry(
    "image_folder",
    "1.0.0",
    "label",
    image_folder.IMAGE_FOLDER.decode,
    None,
    image_folder.IMAGE_FOLDER.fingerprint,
  ),
  "cats_vs_dogs": Entry(
    "cats_vs_dogs",
    "4.0.1",
    "label",
    image_folder.CATS_VS_DOGS.decode,
    (0, 0, 3, 2),
    image_folder.CATS_VS_DOGS.fingerprint,
  ),
}


def known() -> tuple[str, ...]:
  """The names that `load` takes."""
  return tuple(REGISTRY)


def form(name: str, options: Mapping[str, Any] | None = None) -> tuple[int, int, int, int] | None:
  """Height, width and channels of the images and the number of classes, without the data.

  None where only the data tell. Errors as for `load`.
  """
  if name not in REGISTRY:
    raise registry.unknown("data.name", "dataset", name, REGISTRY)
  entry = REGISTRY[name]
  if entry.form is None or entry.form[0]:
    return entry.form
  size = _choose(name, entry, options or {})["size"]
  return (size, size, *entry.form[2:])


def load(
  name: str,
  data_dir: epath.PathLike | None = None,
  source: epath.PathLike | None = None,
  options: Mapping[str, Any] | None = None,
) -> Dataset:
  """The data set, prepared first if it is not yet.

  Args:
    name: one of `known()`.
    data_dir: a local folder; None for TFDS's own (see above).
    source: a folder or archive with the data set's files, for when nothing is prepared yet; None
      tries the official URL, and what other sources the data set has.
    options: of this data set, such as the `size` of photos; those left out, or None, have their
      defaults.

  Raises:
    errors.UserError: unknown name or option, bad source, unusable data directory, damaged TFDS
      data.
    Unavailable: nothing is prepared, no source was named, and none is in reach.
  """
  entry, _, final = _locate(name, data_dir, source, options)
  try:
    return cache.read(final, name, entry.label)
  except cache.Unusable:
    return prepare(name, data_dir, source, options)


def prepare(
  name: str,
  data_dir: epath.PathLike | None = None,
  source: epath.PathLike | None = None,
  options: Mapping[str, Any] | None = None,
) -> Dataset:
  """Fetches, prepares and decodes what is missing, showing progress, and loads the data set.

  Any number of processes may call it at once: one works, the others wait for it. One that is
  killed leaves nothing that a later one would trust. Arguments and errors as for `load`.
  """
  entry, home, final = _locate(name, data_dir, source, options)
  try:
    home.mkdir(parents=True, exist_ok=True)
    lock = home / "prepare.lock"
    waiting = "another process is preparing %s; waiting for it (%s)"
    with locks.held(lock, lambda: log.info(waiting, name, lock)):
      try:
        return cache.read(final, name, entry.label)
      except cache.Unusable as reason:
        log.info("%s; preparing %s", reason, name)
      with _scratch(home / "preparing") as work:
        cache.write(work / "decoded", entry.decode(home, work, source))
        for note in work.glob("*.json"):
          os.replace(note, work / "decoded" / note.name)
        cache.publish(work / "decoded", final)
      return cache.read(final, name, entry.label)
  except OSError as error:
    raise errors.UserError(
      f"data.dir: cannot prepare {name} in {home} ({error}); make room or mend its "
      "permissions, or set --config.data.dir to another folder"
    ) from error


def _locate(
  name: str,
  data_dir: epath.PathLike | None,
  source: epath.PathLike | None,
  options: Mapping[str, Any] | None,
) -> tuple[Entry, epath.Path, epath.Path]:
  """The entry, with the options bound to its `decode`; its folder; where its arrays belong."""
  if name not in REGISTRY:
    raise registry.unknown("data.name", "dataset", name, REGISTRY)
  if data_dir is None:
    data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  data_dir = os.fspath(data_dir)
  if "://" in data_dir:
    raise errors.UserError(f"data.dir: {data_dir} is not a local folder, which it must be")
  entry = REGISTRY[name]
  home = epath.Path(data_dir).expanduser().resolve() / entry.folder
  chosen = _choose(name, entry, options or {})
  final = home / f"decoded-{entry.version}"
  recipe = (entry.fingerprint(home, source), chosen)
  if any(recipe):
    told = json.dumps(recipe, sort_keys=True, default=repr)
    final = home / f"{final.name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
  return entry._replace(decode=functools.partial(entry.decode, **chosen)), home, final


def _choose(name: str, entry: Entry, given: Mapping[str, Any]) -> dict[str, Any]:
  """Every option of a data set, `given` over the defaults."""
  parameters = inspect.signature(entry.decode).parameters.values()
  options = {p.name: p.default for p in parameters if p.default is not p.empty}
  for option, value in given.items():
    if option not in options:
      raise errors.UserError(
        f"data.options.{option}: {name!r} takes no such option; "
        f"it takes: {', '.join(options) or 'none'}"
      )
    if value is not None:
      options[option] = value
  return options


@contextlib.contextmanager
def _scratch(path: epath.Path) -> Iterator[epath.Path]:
  """An empty folder at `path`, which goes in the end; what a killed process left there goes too."""
  if path.exists():
    path.rmtree()
  path.mkdir()
  try:
    yield path
  finally:
    path.rmtree()
