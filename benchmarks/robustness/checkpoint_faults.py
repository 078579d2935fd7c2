"""Does any failed file operation cost a checkpoint? Fail each in turn, in a save and in a restart.

  python -m benchmarks.robustness.checkpoint_faults

A folder holds two checkpoints. A third is saved (`save`), or the run is resumed (`restore`), and
one operation on a file fails: with EIO, EMFILE or ENOSPC; or that one and all later ones fail
(`stop`), which leaves the files as a kill before this operation would. `kept` counts the faults
that caused nothing worse than an error of one line, after which the run resumed from the newest
complete checkpoint with the right bits, could save again, and found nothing damaged.

A layer in front of the C library makes operations fail (file_faults.py), in this program's Python
and in TensorStore alike. The layer needs g++.
"""

import argparse
import errno
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.robustness import file_faults
from cifar_jax import errors
from cifar_jax.runs import checkpoints
from cifar_jax.runtime import console, shutdown

_FOLDER = "faulty"  # only operations in this folder count
_FAULTS = {"EIO": errno.EIO, "EMFILE": errno.EMFILE, "ENOSPC": errno.ENOSPC, "stop": -errno.EIO}
_COLUMNS = ["action", "fault", "times", "kept"]
_STEPS = (10, 20, 30)  # of the checkpoints; `save` writes the last


def main() -> bool:
  parser = records.bare_parser(__doc__, "checkpoint_faults")
  parser.add_argument("--every", type=int, default=1, help="fail each n-th operation only")
  parser.add_argument("--only", type=int, help="fail this operation only")
  parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
  options = records.parse(parser)
  if options.folder:
    return _sweep(options)
  with tempfile.TemporaryDirectory(prefix="checkpoint_faults_") as folder:
    library = file_faults.build(pathlib.Path(folder))
    command = [sys.executable, "-m", "benchmarks.robustness.checkpoint_faults", *sys.argv[1:]]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment |= file_faults.variables(library, f"/{_FOLDER}/")
    completed = subprocess.run([*command, f"--folder={folder}"], env=environment)
  return completed.returncode == 0


def _sweep(options: argparse.Namespace) -> bool:
  """Fail every operation in turn; return whether everything was kept."""
  shutdown.silence_libraries()
  console.log.setLevel("ERROR")
  intact = options.folder / "intact"
  _save(intact, *_STEPS[:2])
  record = records.Record("checkpoint_faults", options, _COLUMNS)
  for action in (_save_third, _resume):
    workdir = _copy(intact, options.folder)
    file_faults.arm(0, 0)
    action(workdir)
    num_operations = file_faults.arm(0, 0)
    for name, number in _FAULTS.items():
      problems = []
      numbers = [options.only] if options.only else range(1, num_operations + 1, options.every)
      for at in numbers:
        if problem := _try(action, _copy(intact, options.folder), at, number):
          problems.append(f"operation {at}: {problem}")
          print(f"{action.__name__}, {name}, {problems[-1]}", file=sys.stderr, flush=True)
      row = {"action": "save" if action is _save_third else "restore", "fault": name}
      record.add(row | {"times": len(numbers), "kept": len(numbers) - len(problems)})
  return all(row["times"] == row["kept"] for row in record.content["rows"])


def _try(action: Any, workdir: pathlib.Path, at: int, error: int) -> str:
  """Let an operation of an action fail; return a description of what then went wrong, or ''."""
  file_faults.arm(at, error)
  try:
    action(workdir)
  except errors.UserError as line:
    if len(str(line).splitlines()) != 1:
      return f"not one line: {line!r}"
  except OSError as line:  # which main.py shows as one line
    if line.strerror is None:
      return repr(line)
  except Exception as other:
    return f"{type(other).__name__}: {other}"
  finally:
    file_faults.arm(0, 0)
  # Threads of the failed save may still write; the end of a process would stop them.
  workdir = workdir.rename(workdir.with_name("restarted"))
  try:
    step = _resume(workdir)
    if step < _STEPS[1]:
      return f"resumed from step {step}"
    if step < _STEPS[2]:
      _save_third(workdir)
    if (last := _resume(workdir)) != _STEPS[2]:
      return f"resumed from step {step}, and after another save from step {last}"
    if (set_aside := workdir / "checkpoints" / "set_aside").exists():
      return f"set aside: {sorted(os.listdir(set_aside))}"
  except Exception as other:
    return f"afterwards {type(other).__name__}: {other}"
  finally:
    shutil.rmtree(workdir)
  return ""


def _copy(intact: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
  (folder / _FOLDER).mkdir(exist_ok=True)
  workdir = pathlib.Path(tempfile.mkdtemp(dir=folder / _FOLDER))
  return pathlib.Path(shutil.copytree(intact, workdir, dirs_exist_ok=True))


def _run(step: int) -> dict[str, Any]:
  """Return what is saved after a step."""
  kernel = np.random.default_rng(step).normal(size=(30, 40)).astype(np.float32)
  return {"state": {"kernel": kernel, "bias": kernel[0]}, "best": {"params": {"kernel": kernel}}}


def _save(workdir: pathlib.Path, *steps: int) -> None:
  store = checkpoints.Checkpoints(workdir)
  try:
    for step in steps:
      store.save_latest(step, _run(step), [step])
  finally:
    store.close()


def _save_third(workdir: pathlib.Path) -> None:
  _save(workdir, _STEPS[2])


def _resume(workdir: pathlib.Path) -> int:
  """Resume; return the step.

  Raises:
    ValueError: the weights are not those of the step.
  """
  store = checkpoints.Checkpoints(workdir)
  try:
    restored = store.restore_latest(_run(0))
    if restored is None:
      return 0
    step, tree = restored
    store.keep_best([step], tree["best"])
  finally:
    store.close()
  _, best = checkpoints.read_best(workdir)
  for read, expected in ((tree, _run(step)), (best["params"], _run(step)["best"]["params"])):
    if not _equal(read, expected):
      raise ValueError(f"the weights are not those of step {step}")
  return step


def _equal(a: Any, b: Any) -> bool:
  if isinstance(a, dict):
    return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
  return bool(np.array_equal(a, b))


if __name__ == "__main__":
  sys.exit(not main())
