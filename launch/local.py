"""Runs a command as several processes of one run on this machine, over loopback.

  python launch/local.py --processes=2 --devices=4 -- python main.py --config=… --workdir=…

The command is given --coordinator_address, --num_processes and --process_id. With --devices each
process has so many virtual CPU devices; without, process i has the machine's accelerator i. Each
line of output begins with the number of its process. SIGTERM and SIGINT are passed on. When one
process fails, the others have time to say why they end, and are then ended; the exit code is the
first one's that failed.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO

GRACE_SECONDS = 60  # in which processes notice by themselves that one of them is gone


def main(arguments: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--devices", type=int, help="virtual CPU devices of each process")
  parser.add_argument("command", nargs="+", help="after --: the command, without those flags")
  options = parser.parse_args(arguments)
  if options.processes < 1 or (options.devices or 1) < 1:
    parser.error("--processes and --devices must be at least 1")
  running = start(options.command, options.processes, options.devices)
  for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, lambda signum, _: [p.send_signal(signum) for p in running])
  relays = [
    threading.Thread(target=_relay, args=(i, source, sink), daemon=True)
    for i, process in enumerate(running)
    for source, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
  ]
  for relay in relays:
    relay.start()
  code = wait(running, GRACE_SECONDS)
  for relay in relays:
    relay.join(timeout=10)
  return code


def start(command: Sequence[str], count: int, devices: int | None) -> list[subprocess.Popen]:
  """Starts `count` processes of a command, in groups of their own, with piped output."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  return [
    subprocess.Popen(
      [
        *command,
        f"--coordinator_address={address}",
        f"--num_processes={count}",
        f"--process_id={i}",
      ],
      env=environment(os.environ, i, devices),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      process_group=0,  # so that Ctrl-C comes once, from here
    )
    for i in range(count)
  ]


def environment(base: Mapping[str, str], index: int, devices: int | None) -> dict[str, str]:
  """The variables of one process: its share of this machine's devices."""
  if devices is None:
    return {**base, "JAX_LOCAL_DEVICE_IDS": str(index)}
  flags = f"{base.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
  return {**base, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}


def wait(running: Sequence[subprocess.Popen], grace: float) -> int:
  """Waits for all; once one has failed only for `grace` seconds. The first failure's exit code.

  A process that died of a signal counts as 128 + signal, as shells have it.
  """
  code, deadline = 0, None
  waiting = list(running)
  while waiting:
    time.sleep(0.05)
    for process in [p for p in waiting if p.poll() is not None]:
      waiting.remove(process)
      if process.returncode and not code:
        code = process.returncode if process.returncode > 0 else 128 - process.returncode
        deadline = time.monotonic() + grace
    if deadline and time.monotonic() > deadline:
      for process in waiting:
        process.kill()
  return code


def _relay(index: int, source: IO[bytes], sink: IO[str]) -> None:
  """Copies lines, each with the number of its process in front."""
  for line in source:
    sink.write(f"[{index}] {line.decode(errors='replace')}")
    sink.flush()


if __name__ == "__main__":
  sys.exit(main())
