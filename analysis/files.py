"""Files that appear whole or not at all."""

from etils import epath


def write_whole(path: epath.Path, content: bytes) -> None:
  """Write a file under a temporary name and rename it, so that no reader sees a part.

  Raises:
    OSError: the file cannot be written.
  """
  temporary = path.with_name(f".{path.name}.tmp")
  temporary.write_bytes(content)
  temporary.replace(path)
