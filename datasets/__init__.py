"""Data sets by name: found, fetched, checked, decoded once, and mapped into memory ever after.

To add one, write a module here with a function that returns a `cache.Decoded`, and give it a line
in `REGISTRY`.

Under the data directory (TFDS's own: the environment variable TFDS_DATA_DIR, or
~/tensorflow_datasets) each data set has a folder that holds

  <version>/          the TFDS data set in ArrayRecord, if TFDS knows the data set
  decoded-<version>/  the decoded arrays (see cache.py)
  preparing/          what is half made; never read, cleared by the next to prepare
  prepare.lock        held while preparing
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import filelock
from etils import epath

import errors
import registry
from console import log
from datasets import cache, cifar, digits
from datasets.cache import Dataset, Split
from datasets.fetch import Unavailable

__all__ = ["REGISTRY", "Dataset", "Entry", "Split", "Unavailable", "known", "load", "prepare"]


class Entry(NamedTuple):
  """One name in the registry.

  Attributes:
    folder: under the data directory; names that differ only in their labels share it.
    version: of the data.
    label: which kind of label the name stands for.
    decode: called with (folder's path, empty folder to work in, source or None).
  """

  folder: str
  version: str
  label: str
  decode: Callable[[epath.Path, epath.Path, epath.PathLike | None], cache.Decoded]


REGISTRY = {
  "cifar10": Entry("cifar10", "3.0.2", "label", cifar.CIFAR10.decode),
  "cifar100": Entry("cifar100", "3.0.2", "label", cifar.CIFAR100.decode),
  "cifar100_coarse": Entry("cifar100", "3.0.2", "coarse_label", cifar.CIFAR100.decode),
  "digits": Entry("digits", "1.0.0", "label", digits.decode),
}


def known() -> tuple[str, ...]:
  """The names that `load` takes."""
  return tuple(REGISTRY)


def load(
  name: str, data_dir: epath.PathLike | None = None, source: epath.PathLike | None = None
) -> Dataset:
  """The data set, prepared first if it is not yet.

  Args:
    name: one of `known()`.
    data_dir: a local folder; None for TFDS's own (see above).
    source: a folder or archive with the data set's files, for when nothing is prepared yet; None
      tries the official URL, and what other sources the data set has.

  Raises:
    errors.UserError: unknown name, bad source, unusable data directory, damaged TFDS data.
    Unavailable: nothing is prepared, no source was named, and none is in reach.
  """
  entry, home = _locate(name, data_dir)
  try:
    return cache.read(home / f"decoded-{entry.version}", name, entry.label)
  except cache.Unusable:
    return prepare(name, data_dir, source)


def prepare(
  name: str, data_dir: epath.PathLike | None = None, source: epath.PathLike | None = None
) -> Dataset:
  """Fetches, prepares and decodes what is missing, showing progress, and loads the data set.

  Any number of processes may call it at once: one works, the others wait for it. One that is
  killed leaves nothing that a later one would trust. Arguments and errors as for `load`.
  """
  entry, home = _locate(name, data_dir)
  final = home / f"decoded-{entry.version}"
  try:
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / "prepare.lock", name):
      try:
        return cache.read(final, name, entry.label)
      except cache.Unusable as reason:
        log.info("%s; preparing %s", reason, name)
      with _scratch(home / "preparing") as work:
        cache.write(work / "decoded", entry.decode(home, work, source))
        cache.publish(work / "decoded", final)
      return cache.read(final, name, entry.label)
  except OSError as error:
    raise errors.UserError(
      f"data.dir: cannot prepare {name} in {home} ({error}); make room or mend its "
      "permissions, or set --config.data.dir to another folder"
    ) from error


def _locate(name: str, data_dir: epath.PathLike | None) -> tuple[Entry, epath.Path]:
  if name not in REGISTRY:
    raise registry.unknown("data.name", "dataset", name, REGISTRY)
  if data_dir is None:
    data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
  data_dir = os.fspath(data_dir)
  if "://" in data_dir:
    raise errors.UserError(f"data.dir: {data_dir} is not a local folder, which it must be")
  return REGISTRY[name], epath.Path(data_dir).expanduser().resolve() / REGISTRY[name].folder


@contextlib.contextmanager
def _locked(path: epath.Path, name: str) -> Iterator[None]:
  lock = filelock.FileLock(path)
  try:
    lock.acquire(timeout=0)
  except filelock.Timeout:
    log.info("another process is preparing %s; waiting for it (%s)", name, path)
    lock.acquire()
  try:
    yield
  finally:
    lock.release()


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
