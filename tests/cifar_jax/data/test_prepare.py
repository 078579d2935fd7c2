"""Preparing a dataset on a full disk, while being killed, and by two processes at once."""

import json
import pathlib
import shutil
import signal

import pytest
from small_datasets import check_small, python

from cifar_jax.data import cache, datasets

pytestmark = pytest.mark.usefixtures("small_cifar")


def test_full_disk(tmp_path, source, prepared_copy):
  """Fail cleanly when TFDS writes to a full disk, and when the cache does.

  A limit on the size of files stands for the disk's size.
  """
  code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))
for data_dir in sys.argv[2:]:
  try:
    datasets.load("cifar10", data_dir, sys.argv[1])
  except errors.UserError as error:
    print("refused:", error)
"""
  shutil.rmtree(prepared_copy / "cifar10" / "decoded-3.0.2")
  new = tmp_path / "new"
  output = python(code, source, new, prepared_copy).communicate()[0]
  for data_dir in (new, prepared_copy):
    assert f"refused: data.dir: cannot prepare cifar10 in {data_dir}/cifar10 (" in output, output
    assert (data_dir == prepared_copy) == (data_dir / "cifar10" / "3.0.2").exists()
    assert not (data_dir / "cifar10" / "preparing").exists()
    check_small(datasets.load("cifar10", str(data_dir), source))


# Each case: a function that takes part in preparing, the call of it before which the process is
# killed, and the folders that exist afterwards.
KILLS = [
  ("cifar_jax.data.array_record", "write", 1, set()),
  ("PIL.Image", "fromarray", 90, set()),  # in the middle of the TFDS records
  ("cifar_jax.data.array_record", "read", 2, set()),  # TFDS's files are complete but unchecked
  ("cifar_jax.data.cache", "publish", 1, set()),
  ("cifar_jax.data.cache", "_compute_moments", 1, {"3.0.2"}),  # arrays without their index
  ("cifar_jax.data.cache", "publish", 2, {"3.0.2"}),
]
# One process imports TFDS and forks a child for each case.
RUN_KILLS = """
import importlib, json, os, signal
import PIL.Image
import tensorflow_datasets as tfds
tfds.image_classification.Cifar10  # imported lazily
for case, (module, name, nth) in enumerate(json.loads(sys.argv[3])):
  child = os.fork()
  if child == 0:
    module = importlib.import_module(module)
    function, calls = getattr(module, name), [0]
    def kill_at_nth_call(*args, **kwargs):
      calls[0] += 1
      if calls[0] == nth:
        os.kill(os.getpid(), signal.SIGKILL)
      return function(*args, **kwargs)
    setattr(module, name, kill_at_nth_call)
    datasets.prepare("cifar10", f"{sys.argv[1]}/{case}", sys.argv[2])
    os._exit(0)
  _, status = os.waitpid(child, 0)
  print("exit code", os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory, source) -> pathlib.Path:
  """A folder that holds, for each of `KILLS`, the data directory of a killed process."""
  folder = tmp_path_factory.mktemp("killed")
  output = python(RUN_KILLS, folder, source, json.dumps([case[:3] for case in KILLS])).communicate()
  codes = [line for line in output[0].splitlines() if line.startswith("exit code")]
  assert codes == [f"exit code {-signal.SIGKILL}"] * len(KILLS), output[0]
  return folder


@pytest.mark.parametrize("case", range(len(KILLS)), ids=lambda i: "-".join(map(str, KILLS[i][1:3])))
def test_killed_while_preparing(case, killed, source):
  data_dir, complete = killed / str(case), KILLS[case][3]
  home = data_dir / "cifar10"
  assert {path.name for path in home.iterdir()} == {"preparing", "prepare.lock"} | complete
  check_small(datasets.load("cifar10", str(data_dir), source))
  assert {path.name for path in home.iterdir()} == {"3.0.2", "decoded-3.0.2", "prepare.lock"}


def test_interrupted_while_preparing_leaves_nothing(tmp_path, source, monkeypatch):
  def interrupt(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(cache, "write", interrupt)
  with pytest.raises(KeyboardInterrupt):
    datasets.load("cifar10", str(tmp_path), source)
  assert {path.name for path in (tmp_path / "cifar10").iterdir()} == {"3.0.2", "prepare.lock"}


def test_two_processes_at_once(tmp_path, source):
  """The first process stops in the middle until the second has logged that it waits."""
  go = tmp_path / "go"
  code = """
import pathlib, time
from cifar_jax.data import array_record
write = array_record.write
def write_after_signal(*args):
  print("works", flush=True)
  deadline = time.monotonic() + 20
  while not pathlib.Path(sys.argv[3]).exists() and time.monotonic() < deadline:
    time.sleep(0.02)
  return write(*args)
array_record.write = write_after_signal
dataset = datasets.load("cifar10", sys.argv[1], sys.argv[2])
small_datasets.check_small(dataset)
print("loaded", dataset.fingerprint)
"""
  first = python(code, tmp_path / "data", source, go)
  lines = []
  for line in first.stdout:
    lines.append(line)
    if line == "works\n":
      break
  second = python(code, tmp_path / "data", source, go)
  for line in second.stdout:
    lines.append(line)
    if "another process is preparing cifar10; waiting for it" in line:
      break
  go.touch()
  outputs = [process.communicate()[0] for process in (first, second)]
  assert first.returncode == second.returncode == 0, lines + outputs
  assert "works\n" not in lines[lines.index("works\n") + 1 :] and "works" not in outputs[1], lines
  results = [output.splitlines()[-1] for output in outputs]
  assert results[0] == results[1] and results[0].startswith("loaded ")


def test_an_unfinished_download_outlives_a_failure_and_a_kill(tmp_path, source):
  home = tmp_path / "cifar10"
  preparing = home / "preparing"
  (preparing / "decoded").mkdir(parents=True)  # of a killed process
  for name in ("decoded/x.npy", "complete.tar.gz", "cifar-10-binary.tar.gz.part"):
    (preparing / name).write_bytes(b"x")
  with pytest.raises(datasets.Unavailable):
    datasets.load("cifar10", str(tmp_path))
  assert [path.name for path in preparing.iterdir()] == ["cifar-10-binary.tar.gz.part"]
  check_small(datasets.load("cifar10", str(tmp_path), source))
  assert {path.name for path in home.iterdir()} == {"3.0.2", "decoded-3.0.2", "prepare.lock"}
