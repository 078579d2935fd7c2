"""Imports go one way: a module imports only from its own room and from rooms below it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# From the bottom to the top; rooms on one line may import each other.
ORDER = (
  ("cifar_jax",),
  ("models", "configs", "input_pipeline"),
  ("experiment",),
  ("train",),
  ("analysis", "trust", "tuning"),
  ("serve",),
  ("modes",),
  ("main",),
  ("launch",),
  ("benchmarks",),
)
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
# Inside cifar_jax, from the bottom to the top.
INSIDE = (
  ("errors", "types"),
  ("registry",),
  ("runtime",),
  ("augment", "optim"),
  ("config",),
  ("kernels",),
  ("runs",),
  ("data",),
  ("training",),
)
INSIDE_LEVELS = {part: level for level, parts in enumerate(INSIDE) for part in parts}


def modules() -> list[pathlib.Path]:
  """Return every Python file of the rooms."""
  files = [path for room in LEVELS for path in (ROOT / room).rglob("*.py")]
  return sorted(files + [ROOT / f"{room}.py" for room in LEVELS if (ROOT / f"{room}.py").exists()])


def imported_names(path: pathlib.Path) -> set[str]:
  """Return the dotted names that a file imports, wherever the import stands."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f"{path}: a relative import hides which room it leads to"
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


def upward_imports(path: pathlib.Path) -> list[str]:
  """Return the imports of a file that lead to a room above its own."""
  parts = path.relative_to(ROOT).with_suffix("").parts
  upward = []
  for name in sorted(imported_names(path)):
    room, *rest = name.split(".")
    if room not in LEVELS:
      continue
    if LEVELS[room] > LEVELS[parts[0]]:
      upward.append(name)
    elif parts[0] == room == "cifar_jax" and rest and len(parts) > 1 and rest[0] in INSIDE_LEVELS:
      level = INSIDE_LEVELS.get(parts[1])
      if level is not None and INSIDE_LEVELS[rest[0]] > level:
        upward.append(name)
  return upward


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_lead_down(path):
  assert not upward_imports(path)


def test_the_check_sees_an_upward_import(tmp_path, monkeypatch):
  (tmp_path / "cifar_jax" / "optim").mkdir(parents=True)
  file = tmp_path / "cifar_jax" / "optim" / "bad.py"
  file.write_text("def f():\n  from cifar_jax.training import steps\n  import train\n")
  monkeypatch.setitem(globals(), "ROOT", tmp_path)
  assert upward_imports(file) == ["cifar_jax.training.steps", "train"]


def test_the_order_names_every_room():
  rooms = {path.parent.name for path in ROOT.glob("*/*.py")} | {p.stem for p in ROOT.glob("*.py")}
  assert rooms - {"tests", "docs"} == set(LEVELS)
