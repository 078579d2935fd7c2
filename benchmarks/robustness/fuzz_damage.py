"""How fuzz.py damages files: strategies for Hypothesis."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from hypothesis import strategies as st


class Target(NamedTuple):
  """A kind of file, and the function that reads it.

  Attributes:
    name: the name of the kind.
    files: strategy for damaged files.
    intact: intact files.
    read: reads a file; raises UserError if the file is damaged, and AssertionError if the content
      is wrong.
  """

  name: str
  files: st.SearchStrategy[Any]
  intact: list[Any]
  read: Callable[[Any], object]


@st.composite
def damaged(draw: st.DrawFn, contents: list[bytes]) -> bytes:
  """Draw one of some files with up to four parts changed, or sometimes random bytes."""
  content = bytearray(draw(st.sampled_from(contents)))
  if draw(st.integers(0, 19)) == 0:
    return draw(st.binary(max_size=200))
  for _ in range(draw(st.integers(1, 4))):
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    length = draw(st.sampled_from([1, 2, 4, 8, 64, 512]))
    kind = draw(st.sampled_from(["flip", "set", "cut", "end", "insert", "copy"]))
    if kind == "flip" and content:
      content[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "set":
      content[at : at + length] = bytes([draw(st.sampled_from([0, 1, 127, 128, 255]))]) * length
    elif kind == "cut":
      del content[at : at + length]
    elif kind == "end":
      del content[at:]
    elif kind == "insert":
      content[at:at] = draw(st.binary(min_size=1, max_size=8))
    else:
      content[at:at] = content[draw(st.integers(0, at)) :][:length]
  return bytes(content)


def damaged_files(files: Mapping[Any, bytes]) -> st.SearchStrategy[tuple[Any, bytes]]:
  """Return a strategy for the path of one of some files with its damaged content."""
  return st.sampled_from(sorted(files)).flatmap(
    lambda path: st.tuples(st.just(path), damaged([files[path]]))
  )


_JSON = st.recursive(
  st.none()
  | st.booleans()
  | st.integers()
  | st.floats()
  | st.text(max_size=8)
  | st.sampled_from([0, -1, 1, 2, 1e308, -(2**31), 2**63, 10**30, "", "test", "<b>", "../x"]),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
  ),
  max_leaves=4,
)


@st.composite
def damaged_json(draw: st.DrawFn, files: dict[str, bytes]) -> tuple[str, bytes]:
  """Draw the name of one of some JSON or JSON Lines files, with values replaced or left out."""
  name = draw(st.sampled_from(sorted(files)))
  content = files[name]
  if draw(st.booleans()):
    return name, draw(damaged([content]))
  is_lines = name.endswith("l")
  lines = content.splitlines()
  value: Any = [json.loads(line) for line in lines] if is_lines else json.loads(content)
  for _ in range(draw(st.integers(1, 3))):
    _damage_value(draw, value)
  if is_lines:
    return name, "".join(json.dumps(row) + "\n" for row in value).encode()
  return name, json.dumps(value).encode()


def _damage_value(draw: st.DrawFn, tree: Any) -> None:
  """Replace or delete a value somewhere in a tree of lists and dicts."""
  while True:
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    if not keys:
      return
    key = draw(st.sampled_from(keys))
    if isinstance(tree[key], dict | list) and tree[key] and draw(st.integers(0, 4)):
      tree = tree[key]
      continue
    if draw(st.integers(0, 3)):
      tree[key] = draw(_JSON)
    else:
      del tree[key]
    return


@contextlib.contextmanager
def replaced(path: pathlib.Path, content: bytes) -> Iterator[None]:
  """Replace the content of a file while the context lasts."""
  original = path.read_bytes()
  path.write_bytes(content)
  try:
    yield
  finally:
    path.write_bytes(original)
