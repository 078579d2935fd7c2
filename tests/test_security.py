"""The program never unpickles, starts a shell or evaluates text."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = (
  *("analysis", "benchmarks", "cifar_jax", "configs", "launch", "models", "serve", "trust"),
  "tuning",
)
FILES = sorted(
  path
  for path in (*ROOT.glob("*.py"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py")))
  if ROOT / "benchmarks" / "peers" not in path.parents  # they run PyTorch, and read no files of it
)
# Modules that unpickle or run code out of files, and calls that evaluate text or start a shell.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch"}
CALLS = {"eval", "exec", "os.system", "os.popen", "torch.load", "pandas.read_pickle", "yaml.load"}
CALLS |= {"tarfile.extractall", "shutil.unpack_archive", "subprocess.getoutput"}
STARTS = {"subprocess.run", "subprocess.Popen", "os.execve"}


def violations(source: str) -> list[str]:
  """Return the forbidden imports and calls in a program."""
  names: list[str] = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
    elif isinstance(node, ast.ImportFrom) and node.module:
      names += [node.module] * (node.module.split(".")[0] in MODULES)
    elif isinstance(node, ast.Call):
      names += forbidden_call(node)
  return names


def forbidden_call(call: ast.Call) -> list[str]:
  """Return what is forbidden about one call."""
  name = ast.unparse(call.func)
  names = [name] * (name in CALLS or name.endswith((".extractall", ".extract")))
  for keyword in call.keywords:
    is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
    names += [f"{name}({keyword.arg}=…)"] * (
      keyword.arg in ("shell", "allow_pickle") and not is_false
    )
  is_text = bool(call.args) and isinstance(call.args[0], ast.Constant | ast.JoinedStr)
  return names + [f"{name} of a text"] * (name in STARTS and is_text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(path):
  assert violations(path.read_text()) == []


def test_violations_are_found():
  assert len(FILES) > 100
  source = """
import numpy, pickle
from torch import nn
numpy.load(path, allow_pickle=True)
numpy.load(path, allow_pickle=False)
archive.extractall(folder)
subprocess.run(f"ls {folder}")
subprocess.run(["ls", folder], shell=flag)
eval(text)
"""
  assert sorted(violations(source)) == [
    "archive.extractall",
    "eval",
    "numpy.load(allow_pickle=…)",
    "pickle",
    "subprocess.run of a text",
    "subprocess.run(shell=…)",
    "torch",
  ]
