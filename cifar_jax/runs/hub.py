"""Runs on the Hugging Face hub, as hf://owner/name or hf://owner/name@revision.

HF_ENDPOINT names a hub other than huggingface.co. Downloads are kept in the client's cache, and are
found there without a network connection. Only files whose names are listed here are downloaded,
only up to a size, and they are read as data: a repository cannot make the program run anything.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cifar_jax import errors

if TYPE_CHECKING:
  from etils import epath

SCHEME = "hf://"
# Files of a shared run, and the largest size of each in bytes.
RUN_FILES: Mapping[str, int] = {
  "weights.safetensors": 4 * 1024**3,
  "config.json": 1024**2,
  "dataset.json": 16 * 1024**2,
  "results.json": 16 * 1024**2,
  "metrics.jsonl": 256 * 1024**2,
  "test_uses.jsonl": 16 * 1024**2,
}
# timm's name for the weights of a network.
TORCH_FILES: Mapping[str, int] = {"model.safetensors": 4 * 1024**3}
_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")


def is_address(source: str | os.PathLike) -> bool:
  """Return whether `source` names a repository on the hub."""
  return str(source).startswith(SCHEME)


def parse(source: str) -> tuple[str, str | None]:
  """Return 'owner/name' and the revision, None for the newest; raise UserError if misspelt."""
  match = _NAME.fullmatch(source)
  if match is None:
    raise errors.UserError(
      f"{source}: not an address on the hub; write hf://owner/name, or hf://owner/name@revision"
    )
  return match[1], match[2]


def download(source: str, limits: Mapping[str, int] = RUN_FILES) -> "epath.Path":
  """Download the files of a repository that `limits` names, unless the cache has them.

  Args:
    source: hf://owner/name, or hf://owner/name@revision.
    limits: the names of the files, each with its largest size in bytes.

  Returns:
    The folder of the files, in the cache of the hub's client. A file that the repository lacks is
    absent.

  Raises:
    UserError: the repository is unavailable, has none of the files, or has one that is too large.
  """
  import huggingface_hub
  from etils import epath  # here, because main.py imports this module at every start

  repository, revision = parse(source)
  is_reachable = True
  try:
    info = huggingface_hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
    _raise_if_too_large(source, {file.rfilename: file.size for file in info.siblings or ()}, limits)
  except errors.UserError:
    raise
  except (
    Exception
  ) as error:  # the client's HTTP library, and so its exceptions, have changed before
    is_reachable, reason = False, error
  try:
    # By branch name, so that the client finds the files without a network connection too.
    folder = epath.Path(
      huggingface_hub.snapshot_download(
        repository,
        revision=revision,
        allow_patterns=list(limits),
        local_files_only=not is_reachable,
      )
    )
  except Exception as error:
    why = _describe(error if is_reachable else reason)
    raise errors.UserError(
      f"{source}: unavailable ({why}); check the name and the network connection, and log in with "
      "`hf auth login` if the repository is private"
    ) from error
  if is_reachable and folder.name != info.sha:
    raise errors.UserError(f"{source}: has just changed; try again")
  sizes = {name: (folder / name).stat().length for name in limits if (folder / name).exists()}
  _raise_if_too_large(source, sizes, limits)
  return folder


def upload(
  target: str, files: Mapping[str, bytes], message: str, private: bool = False
) -> tuple[str, str]:
  """Write files to a repository in one commit; create the repository if needed.

  Args:
    target: hf://owner/name, or hf://owner/name@branch of a branch that exists.
    files: the contents by name.
    message: the commit message.
    private: whether a new repository is visible to its owner alone.

  Returns:
    The address with the commit, and the page of the repository.

  Raises:
    UserError: the repository cannot be written.
  """
  import huggingface_hub

  repository, revision = parse(target)
  api = huggingface_hub.HfApi()
  try:
    api.create_repo(repository, private=private, exist_ok=True)
    commit = api.create_commit(
      repository,
      operations=[huggingface_hub.CommitOperationAdd(name, data) for name, data in files.items()],
      commit_message=message,
      revision=revision,
    )
  except Exception as error:  # as in `download`
    raise errors.UserError(
      f"{target}: cannot be written ({_describe(error)}); check the name and the network "
      "connection, and log in with `hf auth login`, or set HF_TOKEN to a token with write access"
    ) from error
  return f"{SCHEME}{repository}@{commit.oid}", f"{api.endpoint}/{repository}"


def _raise_if_too_large(
  source: str, sizes: Mapping[str, int | None], limits: Mapping[str, int]
) -> None:
  """Raise UserError if `sizes` has no file of `limits`, or one that is too large."""
  if not any(name in sizes for name in limits):
    raise errors.UserError(
      f"{source}: holds none of {', '.join(limits)}; name a repository that --mode=push wrote"
    )
  for name, limit in limits.items():
    size = sizes.get(name, 0)
    if size is None or size > limit:
      shown = "of unknown size" if size is None else f"{size:,} bytes"
      raise errors.UserError(
        f"{source}: {name} is {shown}, but at most {limit:,} are read; use another repository"
      )


def _describe(error: Exception) -> str:
  """Return the first lines of an error as one line."""
  lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
  return " ".join(" ".join(lines[:3]).split())[:300]
