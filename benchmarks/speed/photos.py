"""Photos decoded while training: our streamed batches against a PyTorch DataLoader with Pillow.

  python -m benchmarks.speed.photos --photos=/tmp/photos --peer_python=.venv-peers/bin/python

The photos are generated JPEGs of 400 x 300 pixels in --photos, made once. Every side reads one
epoch in random order, and delivers batches of uint8 on the host: the largest central square of each
photo, resized to --size with bilinear interpolation. No network is trained.

'prepare s' is the time of our first start, which decodes every photo once to find the unusable
ones, the mean and the deviation. 'first batch s' is the time of a later start from the creation of
the loader (files listed, index read; libraries are imported before) to the first batch; 'images/s'
is the rate after it. 'peak MiB' is the peak of the proportional memory (PSS), summed over a side's
processes and sampled twice a second.

Sides: 'threads' decodes in one process, 'workers' in --workers processes; 'pixels' reads pixels
from disk that were decoded once; 'torch' is a DataLoader with --workers, which decodes, crops and
resizes with Pillow.
"""

import argparse
import concurrent.futures
import io
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import numpy as np

from benchmarks import records
from cifar_jax.runtime.console import progress
from cifar_jax.types import Row

SIDES = ("threads", "workers", "pixels", "torch")
_NUM_CLASSES = 10
_WIDTH, _HEIGHT = 400, 300
_SAMPLE_SECONDS = 0.5


def main() -> None:
  parser = records.parser(__doc__, "photos")
  records.add_peer_option(parser)
  parser.add_argument("--photos", required=True, type=pathlib.Path, help="folder, made if missing")
  parser.add_argument("--images", type=int, default=50_000, help="number of photos")
  parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--workers", type=int, help="worker processes; default: one per core")
  parser.add_argument("--sides", default=",".join(SIDES))
  options = records.parse(parser)
  options.workers = options.workers or len(os.sched_getaffinity(0))
  if options.quick:
    options.images, options.size, options.batch = 400, 16, 8
  folder = options.photos / f"{options.images}"
  write_photos(folder, options.images)
  columns = ["side", "prepare s", "first batch s", "images/s", "peak MiB"]
  record = records.Record("photos", options, columns)
  for side in options.sides.split(","):
    record.add({"side": side} | run_side(side, folder, options))


def write_photos(folder: pathlib.Path, number: int) -> None:
  """Write the JPEGs of all classes below a folder, unless they exist."""
  marker = folder.with_suffix(".complete")
  if marker.exists():
    return
  for label in range(_NUM_CLASSES):
    (folder / f"class{label}").mkdir(parents=True, exist_ok=True)

  def write(i: int) -> None:
    (folder / f"class{i % _NUM_CLASSES}" / f"{i:06}.jpg").write_bytes(_encode_photo(i))

  with (
    concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    progress("writing photos", number, "images") as advance,
  ):
    for _ in pool.map(write, range(number)):
      advance(1)
  marker.touch()


def _encode_photo(seed: int) -> bytes:
  """Return a JPEG of smooth colours with fine noise, about 30 kB as a photo of this size has."""
  from PIL import Image

  rng = np.random.default_rng(seed)
  coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
  smooth = np.asarray(coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), np.int16)
  noise = rng.integers(-12, 13, smooth.shape, np.int16)
  buffer = io.BytesIO()
  pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
  Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
  return buffer.getvalue()


def run_side(side: str, folder: pathlib.Path, options: argparse.Namespace) -> Row:
  """Run one side in its process; return the cells of its row."""
  arguments = [f"--photos={folder}", f"--size={options.size}", f"--batch={options.batch}"]
  arguments.append(f"--workers={0 if side in ('threads', 'pixels') else options.workers}")
  row: Row = {}
  if side == "torch":
    script = records.ROOT / "benchmarks" / "peers" / "torch_photos.py"
    command = [options.peer_python, str(script), *arguments]
  else:
    command = [sys.executable, "-m", "benchmarks.speed.photos_ours", *arguments]
    command += [f"--data_dir={folder.with_suffix('.data')}"]
    command += ["--decode_once"] if side == "pixels" else []
    output, _ = _run([*command, "--prepare"], options.limit)
    row["prepare s"] = output["prepare_seconds"]
  output, peak_bytes = _run(command, options.limit)
  return row | {
    "first batch s": output["first_batch_seconds"],
    "images/s": output["images_per_second"],
    "peak MiB": round(peak_bytes / 2**20),
  }


def _run(command: list[str], limit: float) -> tuple[dict[str, float], int]:
  """Run a command; return the JSON in its last line and the peak memory of its processes in bytes.

  Raises:
    CalledProcessError: the command failed.
    TimeoutExpired: it took longer than `limit` seconds.
  """
  environment = records.side_environment(variables={"JAX_PLATFORMS": "cpu"})
  peak, is_done = 0, threading.Event()
  with subprocess.Popen(
    command, env=environment, cwd=records.ROOT, stdout=subprocess.PIPE, text=True
  ) as process:

    def sample() -> None:
      nonlocal peak
      while not is_done.wait(_SAMPLE_SECONDS):
        peak = max(peak, measure_memory(process.pid))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
      output, _ = process.communicate(timeout=limit)
    except BaseException:
      process.kill()
      raise
    finally:
      is_done.set()
      sampler.join()
  if process.returncode:
    raise subprocess.CalledProcessError(process.returncode, command)
  return json.loads(output.splitlines()[-1]), peak


def measure_memory(pid: int) -> int:
  """Return the proportional set size of a process and its descendants in bytes."""
  children: dict[int, list[int]] = {}
  for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
    try:
      parent = int(path.read_text().rpartition(")")[2].split()[1])
    except OSError:  # the process has ended
      continue
    children.setdefault(parent, []).append(int(path.parent.name))
  total, pending = 0, [pid]
  while pending:
    process = pending.pop()
    pending += children.get(process, [])
    try:
      rollup = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
      continue
    match = re.search(r"^Pss:\s+(\d+) kB$", rollup, re.MULTILINE)
    total += int(match[1]) * 1024 if match else 0
  return total


if __name__ == "__main__":
  main()
