"""Requests per second of `--mode=serve`, and how long clients wait: batches against single images.

  python -m benchmarks.speed.serve --model=resnet18

starts the server twice with an untrained network of this name (weights do not change the time):
'batches' unchanged, 'one at a time' with batches of one image. 1, 10 and 100 clients each send
one photo after the other, a JPEG of 320 × 240 pixels, to one side and then to the other, in several
rounds. The clients run in this process and share the machine's cores with the server. Two further
rows are of 'batches' under disturbance: half of the photos broken, or as many clients again that
send a byte of their photo per second.
"""

import argparse
import asyncio
import contextlib
import io
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks import records
from cifar_jax.types import Row

_SIDES = {"batches": None, "one at a time": (1,)}  # sizes of batches; None for the default
_BOUNDARY = "photo-boundary"
_SECONDS_TO_START = 300


class Load(NamedTuple):
  """The clients: their number, whether every second photo is broken, how many more are slow."""

  clients: int
  some_broken: bool = False
  num_slow: int = 0

  @property
  def name(self) -> str:
    return "half broken" if self.some_broken else "with slow clients" if self.num_slow else ""


class Outcome(NamedTuple):
  """A round: the seconds of each success, the number of other answers, and the total time."""

  seconds: list[float]
  num_refused: int
  elapsed: float


def main() -> None:
  parser = records.bare_parser(__doc__, "serve")
  parser.add_argument("--model", default="resnet18")
  parser.add_argument("--clients", default="1,10,100")
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--seconds", type=float, default=5.0, help="length of a round")
  parser.add_argument("--serve", choices=list(_SIDES), help="internal: be the server of a side")
  parser.add_argument("--workdir", help="internal: the run that it serves")
  options = records.parse(parser)
  if options.serve:
    be_server(options.serve, options.workdir)
    return
  counts = [int(count) for count in options.clients.split(",")]
  loads = [Load(count) for count in counts]
  loads += [Load(counts[-1], some_broken=True), Load(counts[-1], num_slow=counts[-1])]
  columns = ["model", "side", "clients", "load", "requests/s", "p50 ms", "p95 ms", "p99 ms"]
  record = records.Record("serve", options, [*columns, "refused"])
  with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
    write_untrained_run(options.model, pathlib.Path(folder) / "run")
    ports = {side: stack.enter_context(running(side, f"{folder}/run")) for side in _SIDES}
    for load in loads:
      measure(load, ports, options, record)


def measure(
  load: Load, ports: dict[str, int], options: argparse.Namespace, record: records.Record
) -> None:
  """Measure a load on each side in turn, and record a row for each."""
  sides = list(ports) if not load.name else ["batches"]
  rounds: dict[str, list[Outcome]] = {side: [] for side in sides}
  for _ in range(options.rounds):
    for side in sides:
      rounds[side].append(asyncio.run(send_load(ports[side], load, options.seconds)))
  for side, outcomes in rounds.items():
    seconds = np.concatenate([outcome.seconds for outcome in outcomes])
    row: Row = {"model": options.model, "side": side, "clients": load.clients, "load": load.name}
    row["requests/s"] = len(seconds) / sum(outcome.elapsed for outcome in outcomes)
    for percentile in (50, 95, 99):
      row[f"p{percentile} ms"] = 1e3 * float(np.percentile(seconds, percentile))
    row["refused"] = sum(outcome.num_refused for outcome in outcomes)
    per_round = [len(outcome.seconds) / outcome.elapsed for outcome in outcomes]
    record.add(row, requests_per_second_by_round=per_round)


# --- Clients -------------------------------------------------------------------------------------


async def send_load(port: int, load: Load, seconds: float) -> Outcome:
  """Let clients send photos for some seconds; each sends the next when the last is answered."""
  photo = make_request(make_photo())
  broken = make_request(make_photo()[:1000])
  durations: list[float] = []
  statuses: list[int] = []
  begin = time.monotonic()

  async def client(index: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = index
    while time.monotonic() < begin + seconds:
      start = time.monotonic()
      writer.write(broken if load.some_broken and number % 2 else photo)
      status = await read_answer(reader)
      statuses.append(status)
      if status == 200:
        durations.append(time.monotonic() - start)
      number += 1
    writer.close()

  slow = [asyncio.create_task(_send_slowly(port, photo)) for _ in range(load.num_slow)]
  await asyncio.gather(*(client(index) for index in range(load.clients)))
  elapsed = time.monotonic() - begin
  for task in slow:
    task.cancel()
  await asyncio.gather(*slow, return_exceptions=True)
  return Outcome(durations, len(statuses) - len(durations), elapsed)


async def _send_slowly(port: int, request: bytes) -> None:
  _, writer = await asyncio.open_connection("127.0.0.1", port)
  try:
    body = request.index(b"\r\n\r\n") + 4
    writer.write(request[:body])
    for i in range(body, len(request)):
      writer.write(request[i : i + 1])
      await asyncio.sleep(1)
  finally:
    writer.close()


async def read_answer(reader: asyncio.StreamReader) -> int:
  """Read an answer to its end; return its status."""
  head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
  (length,) = [line.split(":")[1] for line in head.split("\r\n") if line[:15] == "content-length:"]
  await reader.readexactly(int(length))
  return int(head.split()[1])


def make_photo() -> bytes:
  """Return a JPEG of 320 × 240 pixels."""
  from PIL import Image

  coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(coarse).resize((320, 240)).save(buffer, "JPEG", quality=90)
  return buffer.getvalue()


def make_request(photo: bytes) -> bytes:
  """Return a POST that asks for the classes of a photo."""
  body = (
    f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name=images; filename=photo.jpg\r\n\r\n"
  ).encode()
  body += photo + f"\r\n--{_BOUNDARY}--\r\n".encode()
  head = (
    f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\n\r\n"
  )
  return head.encode() + body


# --- Servers -------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(side: str, workdir: str) -> Iterator[int]:
  """Run the server of a side in another process; yield its port once it has answered a photo."""
  command = [sys.executable, "-m", "benchmarks.speed.serve", f"--serve={side}"]
  process = subprocess.Popen(
    [*command, f"--workdir={workdir}"],
    env=records.side_environment(),
    stdout=subprocess.PIPE,
    text=True,
    cwd=records.ROOT,
  )
  try:
    assert process.stdout is not None
    port = int(json.loads(process.stdout.readline())["port"])
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS_TO_START):
      asyncio.run(asyncio.wait_for(_first_answer(port), _SECONDS_TO_START))
    yield port
  finally:
    process.terminate()
    process.wait()


async def _first_answer(port: int) -> None:
  """Wait until the network is loaded and compiled."""
  while True:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(make_request(make_photo()))
    status = await read_answer(reader)
    writer.close()
    if status == 200:
      return
    await asyncio.sleep(1)


def be_server(side: str, workdir: str) -> None:
  """Serve a run on a free port until terminated; print the port as JSON."""
  from cifar_jax.runtime import startup
  from serve import batching, server

  startup.start_jax(None)
  sizes = _SIDES[side]
  if sizes is not None:
    batching.SIZES = sizes
  listening = server.listen([workdir], "127.0.0.1", 0)
  print(json.dumps({"port": listening.socket.getsockname()[1]}), flush=True)
  listening.server.run([listening.socket])


def write_untrained_run(model: str, path: pathlib.Path) -> None:
  """Write the files of a run that a server needs, with random weights."""
  os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the servers need the accelerator
  import jax

  import models
  from cifar_jax.runs import checkpoints
  from configs import default

  config = default.get_config()
  config.model.name, config.dtype = model, "float32"
  classes = [f"class {i}" for i in range(10)]
  network = models.create(config.model, len(classes))
  images = np.zeros((2, 32, 32, 3), np.float32)
  variables = jax.jit(lambda key: network.init(key, images, train=False))(jax.random.key(0))
  path.mkdir()
  (path / "config.json").write_text(json.dumps(config.to_dict()))
  moments = {"mean": [0.5] * 3, "std": [0.25] * 3}
  description = {"name": "cifar10", "image_shape": [32, 32, 3], "class_names": classes} | moments
  (path / "dataset.json").write_text(json.dumps(description))
  store = checkpoints.Checkpoints(path)
  store.save_best([1], jax.device_get({"batch_stats": {}} | variables))
  store.close()


if __name__ == "__main__":
  main()
