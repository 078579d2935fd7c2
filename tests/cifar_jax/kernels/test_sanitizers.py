"""All instruction sets, emulated, and this machine's, under sanitizers, against plain loops."""

import pathlib
import shutil
import subprocess

import pytest

from cifar_jax.kernels import build

DRIVER = pathlib.Path(__file__).parent / "convolution_driver.cc"
SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COMPILER = next(filter(None, map(shutil.which, build.COMPILERS)), None)


@pytest.mark.skipif(COMPILER is None or build.load() is None, reason="no C++ compiler")
@pytest.mark.parametrize("emulated", [True, False])
def test_random_shapes_are_right_and_stay_in_bounds(emulated, tmp_path):
  sources = [path for path in build.FOLDER.glob("*.cc") if "ffi.h" not in path.read_text()]
  flags = [*build.FLAGS, *SANITIZERS, *(["-DKERNELS_EMULATED"] if emulated else [])]
  command = [COMPILER, *flags, "-I", str(build.FOLDER), "-c"]
  compilers = [
    subprocess.Popen([*command, str(path), "-o", str(tmp_path / f"{path.stem}.o")])
    for path in (*sources, DRIVER)
  ]
  assert [compiler.wait() for compiler in compilers] == [0] * len(compilers)
  program = str(tmp_path / "driver")
  objects = [str(path) for path in tmp_path.glob("*.o")]
  subprocess.run([COMPILER, *flags, *objects, "-o", program], check=True)
  done = subprocess.run([program, "0", "40"], capture_output=True, text=True, timeout=300)
  assert done.returncode == 0, done.stdout + done.stderr
