"""All instruction sets, emulated, and this machine's, under sanitizers, against plain loops."""

import os
import pathlib
import shutil
import subprocess

import pytest

from cifar_jax.kernels import build

FOLDER = pathlib.Path(__file__).parent
SANITIZERS = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COMPILER = next(filter(None, map(shutil.which, build.COMPILERS)), None)
pytestmark = pytest.mark.skipif(COMPILER is None or build.load() is None, reason="no C++ compiler")


SOURCES = {path for path in build.FOLDER.glob("*.cc") if "ffi.h" not in path.read_text()}
PASSES = set(build.FOLDER.glob("passes*.cc"))  # slow to compile


def run_driver(driver, sources, tmp_path, options=(), instruction_sets=("amx",)):
  """Compile a driver with its kernels, and let it check random shapes by each instruction set."""
  command = [COMPILER, *build.FLAGS, *SANITIZERS, *options, "-I", str(build.FOLDER)]
  compilers = [
    subprocess.Popen([*command, "-c", str(path), "-o", str(tmp_path / f"{path.stem}.o")])
    for path in (*sources, FOLDER / driver)
  ]
  assert [compiler.wait() for compiler in compilers] == [0] * len(compilers)
  program = str(tmp_path / "driver")
  objects = [str(path) for path in tmp_path.glob("*.o")]
  subprocess.run([*command, *objects, "-o", program], check=True)
  for name in instruction_sets:
    environment = os.environ | {"CIFAR_JAX_KERNELS": name}
    arguments = [program, "0", "40"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("emulated", [True, False])
def test_convolutions_are_right_and_stay_in_bounds(emulated, tmp_path):
  options = ["-DKERNELS_EMULATED"] if emulated else []
  run_driver("convolution_driver.cc", SOURCES - PASSES, tmp_path, options)


def test_batch_norm_pooling_and_dropout_are_right_and_stay_in_bounds(tmp_path):
  sources = PASSES | {build.FOLDER / "cpu.cc"}
  run_driver("passes_driver.cc", sources, tmp_path, instruction_sets=("avx2", "avx512"))


def test_work_is_divided_among_threads_without_a_race(tmp_path):
  program = tmp_path / "threads"
  include = ["-I", str(build.FOLDER), "-I", str(FOLDER / "pool_without_xla")]
  command = [COMPILER, *build.FLAGS, "-g1", "-fsanitize=thread", *include]
  subprocess.run([*command, str(FOLDER / "threads_driver.cc"), "-o", str(program)], check=True)
  # Linux places programs at addresses that older sanitizers do not expect.
  done = subprocess.run(
    ["setarch", "--addr-no-randomize", str(program)], capture_output=True, text=True, timeout=300
  )
  assert done.returncode == 0, done.stdout + done.stderr
