"""What the program never does, whatever it is given: unpickle, run a shell, evaluate text."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = ("analysis", "cifar_jax", "configs", "models", "tuning")
FILES = sorted([*ROOT.glob("*.py"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.py"))])
# Modules that unpickle or run code out of files, and calls that evaluate text or start a shell.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "torch"}
CALLS = {"eval", "exec", "os.system", "os.popen", "torch.load", "pandas.read_pickle", "yaml.load"}
CALLS |= {"tarfile.extractall", "shutil.unpack_archive", "subprocess.getoutput"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_evaluated_or_given_to_a_shell(path):
  found = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
    elif isinstance(node, ast.ImportFrom) and node.module:
      found += [node.module] * (node.module.split(".")[0] in MODULES)
    elif isinstance(node, ast.Call):
      name = ast.unparse(node.func)
      found += [name] * (name in CALLS or name.endswith((".extractall", ".extract")))
      for keyword in node.keywords:
        allowed = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        found += [f"{name}({keyword.arg}=…)"] * (
          keyword.arg in ("shell", "allow_pickle") and not allowed
        )
      started = name in ("subprocess.run", "subprocess.Popen", "os.execve")
      text = bool(node.args) and isinstance(node.args[0], ast.Constant | ast.JoinedStr)
      found += [f"{name} of a text"] * (started and text)
  assert not found
