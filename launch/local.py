"""Run a command as several processes of one run on this machine, over loopback.

  python launch/local.py --processes=2 --devices=4 -- python main.py --config=… --workdir=…

The launcher adds --coordinator_address, --num_processes and --process_id to the command. With
--devices each process gets that number of virtual CPU devices; without it, process i gets
accelerator i of this machine. Each line of output is prefixed with the number of its process.
SIGTERM and SIGINT are passed on to all processes. When a process fails, the others have a minute to
report the failure and exit before they are killed. The exit code is that of the first process that
failed.
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
from types import FrameType
from typing import IO

GRACE_SECONDS = 60  # for the other processes to notice that one has failed


def main(arguments: Sequence[str] | None = None) -> int:
  """Run the command line; return the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--processes", type=int, default=2, help="number of processes")
  parser.add_argument("--devices", type=int, help="virtual CPU devices of each process")
  parser.add_argument("command", nargs="+", help="the command to run, after --")
  options = parser.parse_args(arguments)
  if options.processes < 1 or (options.devices or 1) < 1:
    parser.error("--processes and --devices must be at least 1")
  processes = start(options.command, options.processes, options.devices)

  def pass_on(signum: int, _: FrameType | None) -> None:
    for process in processes:
      process.send_signal(signum)

  for signum in (signal.SIGTERM, signal.SIGINT):
    signal.signal(signum, pass_on)
  relays = [
    threading.Thread(target=_relay, args=(index, source, sink), daemon=True)
    for index, process in enumerate(processes)
    for source, sink in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
  ]
  for relay in relays:
    relay.start()
  code = wait(processes, GRACE_SECONDS)
  for relay in relays:
    relay.join(timeout=10)
  return code


def start(
  command: Sequence[str], num_processes: int, devices: int | None
) -> list[subprocess.Popen[bytes]]:
  """Start `command` in several processes, each in a process group of its own, with piped output.

  Args:
    num_processes: number of processes.
    devices: virtual CPU devices of each process; None gives process i accelerator i.
  """
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  return [
    subprocess.Popen(
      [
        *command,
        f"--coordinator_address={address}",
        f"--num_processes={num_processes}",
        f"--process_id={index}",
      ],
      env=environment(os.environ, index, devices),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      process_group=0,  # Ctrl-C then reaches each process once, through this launcher
    )
    for index in range(num_processes)
  ]


def environment(base: Mapping[str, str], index: int, devices: int | None) -> dict[str, str]:
  """Return the environment of process `index`, which selects its share of the devices."""
  if devices is None:
    return {**base, "JAX_LOCAL_DEVICE_IDS": str(index)}
  flags = f"{base.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
  return {**base, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}


def wait(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> int:
  """Wait for all processes; return the exit code of the first that failed, else 0.

  After a failure the others have `grace` seconds before they are killed. The exit code of a process
  killed by a signal is 128 + signal, as in a shell.
  """
  code, deadline = 0, None
  running = list(processes)
  while running:
    time.sleep(0.05)
    for process in [p for p in running if p.poll() is not None]:
      running.remove(process)
      if process.returncode and not code:
        code = process.returncode if process.returncode > 0 else 128 - process.returncode
        deadline = time.monotonic() + grace
    if deadline and time.monotonic() > deadline:
      for process in running:
        process.kill()
  return code


def _relay(index: int, source: IO[bytes], sink: IO[str]) -> None:
  """Copy lines, each prefixed with the number of its process."""
  for line in source:
    sink.write(f"[{index}] {line.decode(errors='replace')}")
    sink.flush()


if __name__ == "__main__":
  sys.exit(main())
