"""The photos of the benchmark, and how it measures memory."""

import os
import resource
import subprocess
import sys

import numpy as np
from PIL import Image

from benchmarks.speed import photos


def test_photos_are_the_same_on_every_machine_and_written_once(tmp_path):
  folder = tmp_path / "12"
  photos.write_photos(folder, 12)
  names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.jpg"))
  assert len(names) == 12 and names[:2] == ["class0/000000.jpg", "class0/000010.jpg"]
  with Image.open(folder / names[1]) as image:
    assert image.size == (400, 300)
    pixels = np.asarray(image)
  assert 20_000 < (folder / names[1]).stat().st_size < 60_000 and pixels.std() > 20
  assert (folder / names[1]).read_bytes() == photos._encode_photo(10)
  (folder / names[1]).unlink()
  photos.write_photos(folder, 12)
  assert not (folder / names[1]).exists()


def test_memory_counts_the_process_and_its_children():
  own = photos.measure_memory(os.getpid())
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  assert 0.05 * most < own <= most
  code = "x = bytearray(100_000_000); x[:] = b'1' * len(x); print(1, flush=True); input()"
  with subprocess.Popen(
    [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
  ) as child:
    child.stdout.readline()
    with_child = photos.measure_memory(os.getpid())
    assert photos.measure_memory(child.pid) > 100_000_000
    child.communicate(b"\n")
  assert with_child - own > 90_000_000
  assert photos.measure_memory(2**22 + 1) == 0  # no such process
