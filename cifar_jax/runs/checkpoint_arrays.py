"""The arrays of one checkpoint: read from its folder, checked, and fitted to a model.

TensorStore reads some arrays with flipped bits without raising an error. Orbax's metadata of each
checkpoint therefore holds the SHA-256 of every array.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from cifar_jax import errors
from cifar_jax.types import Params, PyTree

_METADATA = "_CHECKPOINT_METADATA"  # Orbax's file; its 'custom_metadata' is free for use
_CHECKSUMS = "sha256"  # key in it: the checksum of each array by path
_SELECTED = "selected_steps"  # key in it: the step at which each seed's weights were selected
# A missing file or an impossible name is damage. Every other error of the operating system may be
# temporary.
_DAMAGE = {
  errno.ENOENT,
  errno.ENOTDIR,
  errno.EISDIR,
  errno.EINVAL,
  errno.ENAMETOOLONG,
  errno.ELOOP,
  errno.EILSEQ,
}
_OS_ERROR = re.compile(r"os_error_code='(\d+)'")  # in TensorStore's messages
_REMOTE_ERROR = re.compile(
  "UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED|ABORTED"
)

# Sums of the current epoch that old checkpoints lack. They become NaN, so that no row holds a sum
# over a part of an epoch.
_ADDED_SUMS = ("state.sums.top5",)

# The arrays of a checkpoint by path, such as 'state.params.stem_conv.kernel'.
Arrays: TypeAlias = dict[str, np.ndarray]


class Unreadable(Exception):
  """A checkpoint is damaged: 'folder: cannot be read (why)'."""


class Saved(NamedTuple):
  """The content of a checkpoint.

  Attributes:
    arrays: every array by path.
    checksums: their SHA-256.
    selected_steps: for best weights, the step of each seed's selection; else None.
  """

  arrays: Arrays
  checksums: dict[str, str]
  selected_steps: list[int] | None


def metadata(arrays: Arrays, selected_steps: Sequence[int] | None) -> dict[str, Any]:
  """Return the metadata that Orbax saves: checksums, and the steps of best weights."""
  content: dict[str, Any] = {_CHECKSUMS: checksums(arrays)}
  if selected_steps is not None:
    content[_SELECTED] = list(selected_steps)
  return content


def read(folder: epath.Path) -> Saved:
  """Return the content of a checkpoint.

  Raises:
    Unreadable: a file in the folder is missing, truncated or altered.
    UserError: the files are unavailable at present, for a reason other than damage.
  """
  try:
    content = json.loads((folder / _METADATA).read_text())["custom_metadata"] or {}
    with _create_checkpointer() as checkpointer:
      leaves = checkpointer.restore(_absolute(folder / "default"))
    arrays = {path: np.asarray(leaf) for path, leaf in leaves.items()}
    actual = checksums(arrays)
    if _CHECKSUMS in content:  # old checkpoints have none
      saved = content[_CHECKSUMS]
      bad = sorted(p for p in actual.keys() | saved.keys() if actual.get(p) != saved.get(p))
      if bad:
        raise ValueError(f"{bad[0]} is not what was written there")
    steps = content.get(_SELECTED)
    return Saved(arrays, actual, None if steps is None else [int(step) for step in steps])
  except Exception as error:  # damaged files fail in many ways, within Orbax and TensorStore
    if reason := _temporary_reason(error):
      raise errors.UserError(
        f"{folder}: unavailable ({reason}); fix this, then rerun the same command"
      ) from error
    raise Unreadable(f"{folder}: cannot be read ({errors.first_line(error)})") from error


def reason(error: Exception) -> str:
  """Return why a file cannot be read or written, in one line."""
  return _temporary_reason(error) or errors.first_line(error)


def checksums(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
  """Return the SHA-256 of each array, with its type and shape."""
  return {path: _sha256(array) for path, array in arrays.items()}


def digest(arrays: Arrays) -> str:
  """Return one SHA-256 for all arrays and their paths."""
  return hashlib.sha256(json.dumps(checksums(arrays), sort_keys=True).encode()).hexdigest()


def to_host(tree: PyTree) -> Arrays:
  """Return copies of the leaves of a tree by path, such as 'params.Conv_0.kernel'."""
  leaves = jax.device_get(_leaves_by_path(tree))
  # Copies, because on CPU device_get may alias a buffer that the next step is about to overwrite.
  return {path: np.array(leaf) for path, leaf in leaves.items()}


def variables_of(arrays: Arrays) -> dict[str, Params]:
  """Return the arrays of a network as {'params': {…}, 'batch_stats': {…}}."""
  tree = traverse_util.unflatten_dict(arrays, sep=".")
  return {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}


def num_bytes(tree: PyTree) -> int:
  """Return the size of a tree's arrays in bytes."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def fit(arrays: Arrays, template: PyTree, folder: epath.Path) -> PyTree:
  """Return the arrays as a tree like `template`; raise UserError if they are another model's."""
  expected = _leaves_by_path(template)
  added = [path for path in _ADDED_SUMS if path in expected and path not in arrays]
  arrays = arrays | {path: np.full(expected[path].shape, np.nan) for path in added}
  if mismatch := find_mismatch(arrays, expected):
    path, saved_shape, shape = mismatch
    raise errors.UserError(
      f"{folder}: does not fit the model: {path} is {saved_shape} there but {shape} with this "
      "config; use another workdir"
    )
  leaves = [np.asarray(arrays[path], leaf.dtype) for path, leaf in expected.items()]
  return jax.tree.unflatten(jax.tree.structure(template), leaves)


def find_mismatch(
  arrays: Mapping[str, Any], expected: Mapping[str, Any]
) -> tuple[str, tuple[int, ...] | str, tuple[int, ...] | str] | None:
  """Return the first path whose shapes differ, and both shapes or 'absent'; None if all fit."""
  for path in sorted(arrays.keys() | expected.keys()):
    there, here = (
      tuple(leaves[path].shape) if path in leaves else "absent" for leaves in (arrays, expected)
    )
    if there != here:
      return path, there, here
  return None


def single_process() -> ocp.options.MultiprocessingOptions:
  """Return options that keep Orbax from waiting for other processes."""
  index = jax.process_index()
  return ocp.options.MultiprocessingOptions(
    primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"process{index}"
  )


def _create_checkpointer() -> ocp.Checkpointer:
  return ocp.Checkpointer(
    ocp.StandardCheckpointHandler(multiprocessing_options=single_process()),
    multiprocessing_options=single_process(),
  )


def _absolute(path: epath.Path) -> epath.Path:
  """Return the path as Orbax needs it; the path of a bucket is always absolute."""
  return path if "://" in str(path) else path.resolve()


def _leaves_by_path(tree: PyTree) -> dict[str, Any]:
  """Return the leaves by path, so that they can be read without the classes of the tree."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _sha256(array: np.ndarray) -> str:
  digest = hashlib.sha256(f"{array.dtype} {array.shape}".encode())
  digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
  return digest.hexdigest()


def _temporary_reason(error: Exception) -> str:
  """Return the reason if an error may be temporary; '' if it is evidence of damage."""
  for cause in _causes(error):
    if isinstance(cause, MemoryError):
      return "out of memory"
    if isinstance(cause, OSError):
      number = errno.ENOENT if isinstance(cause, FileNotFoundError) else cause.errno
      if number is None:
        return errors.first_line(cause)
    elif match := _OS_ERROR.search(str(cause)):
      number = int(match[1])
    elif match := _REMOTE_ERROR.match(str(cause)):
      return errors.first_line(cause)
    elif "can't start new thread" in str(cause):
      return str(cause)
    else:
      continue
    if number not in _DAMAGE:
      return os.strerror(number)
  return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  """Yield an error, and the errors that it was raised from."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__
