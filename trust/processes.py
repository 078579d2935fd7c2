"""Train in child processes, which can be killed and may see other devices.

The parent process never uses an accelerator, because JAX may then reserve all of its memory.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import pprint
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import ml_collections

from cifar_jax import errors
from cifar_jax.types import Row

ROOT = pathlib.Path(__file__).resolve().parent.parent
_POLL_SECONDS = 0.02
_DEVICES = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True)
class Job:
  """One training.

  Attributes:
    config: the experiment, as a file of configs/ returns it.
    workdir: the run folder. The log and the config are files next to it.
    xla_flags: flags that are added to XLA_FLAGS.
    program: the module of this repository that trains, with the command line of main.py.
  """

  config: ml_collections.ConfigDict
  workdir: pathlib.Path
  xla_flags: str = ""
  program: str = "main"

  @property
  def log(self) -> pathlib.Path:
    """The file with the output of the training, over all its starts."""
    return self.workdir.with_name(f"{self.workdir.name}.log")

  @property
  def num_epochs(self) -> int:
    """The number of epochs in metrics.jsonl so far."""
    file = self.workdir / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def virtual_devices(count: int) -> str:
  """Return the XLA flag that splits the CPU into `count` devices."""
  return f"{_DEVICES}={count}"


def finish(job: Job) -> None:
  """Train to the end, from the newest checkpoint if there is one.

  Raises:
    UserError: the training failed; the message is its last line.
  """
  with _started(job) as process:
    code = process.wait()
  if code:
    _raise_failure(job, code)


def interrupt(job: Job, number: signal.Signals, is_time: Callable[[], bool]) -> bool:
  """Train, and send a signal once `is_time()`; return whether the signal came before the end.

  Args:
    is_time: polled once the training has written config.json, which it does after it has read its
      data and before its first step.

  Raises:
    UserError: the training failed.
  """
  file, started = job.workdir / "config.json", time.time_ns()
  with _started(job) as process:
    while process.poll() is None:
      is_training = file.exists() and file.stat().st_mtime_ns >= started
      if is_training and is_time():
        process.send_signal(number)
        break
      time.sleep(_POLL_SECONDS)
    code = process.wait()
  if code in (-number, 128 + number):
    return True
  if code:
    _raise_failure(job, code)
  return False


def stop_after_epochs(job: Job, epochs: int) -> None:
  """Train until `epochs` epochs are in metrics.jsonl, or to the end if the run has no more.

  Raises:
    UserError: the training failed.
  """
  if job.config.num_epochs <= epochs:
    finish(job)
  elif job.num_epochs < epochs:
    interrupt(job, signal.SIGTERM, lambda: job.num_epochs >= epochs)


def describe_environment(dtype: str) -> Row:
  """Return results.environment as a training in another process sees it.

  Raises:
    UserError: JAX cannot start there.
  """
  program = (
    "import json; from cifar_jax.runs import results; "
    f"print(json.dumps(results.environment({dtype!r})))"
  )
  process = subprocess.run(
    [sys.executable, "-c", program], env=_environment(""), capture_output=True, text=True
  )
  if process.returncode:
    reason = (process.stderr.strip().splitlines() or ["no message"])[-1]
    raise errors.UserError(f"jax: cannot start ({reason}); correct the installation")
  return json.loads(process.stdout.splitlines()[-1])


@contextlib.contextmanager
def _started(job: Job) -> Iterator[subprocess.Popen]:
  """Start a training; kill it if the block ends before it does."""
  config_file = job.workdir.with_name(f"{job.workdir.name}_config.py")
  job.workdir.parent.mkdir(parents=True, exist_ok=True)
  config_file.write_text(_config_program(job.config))
  # -P: no module of the current folder, or of trust/, may shadow another.
  command = [sys.executable, "-P", "-m", job.program, f"--config={config_file}"]
  command += [f"--workdir={job.workdir}", "--heartbeat=0"]
  with job.log.open("ab") as log:
    process = subprocess.Popen(
      command, env=_environment(job.xla_flags), stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    try:
      yield process
    finally:
      if process.poll() is None:
        process.kill()
        process.wait()


def _config_program(config: ml_collections.ConfigDict) -> str:
  """Return a config file that holds the values of `config`."""
  values = pprint.pformat(config.copy_and_resolve_references().to_dict(), sort_dicts=False)
  return (
    f"import ml_collections\n\n\ndef get_config():\n  return ml_collections.ConfigDict({values})\n"
  )


def _environment(xla_flags: str) -> dict[str, str]:
  """Return this process's variables with flags added to XLA_FLAGS."""
  current = os.environ.get("XLA_FLAGS", "")
  if _DEVICES in xla_flags:
    current = re.sub(rf"{_DEVICES}=\d+", "", current)
  return os.environ | {
    "XLA_FLAGS": f"{current} {xla_flags}".strip(),
    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
  }


def _raise_failure(job: Job, code: int) -> None:
  lines = [line for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
  reason = lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
  raise errors.UserError(f"{job.workdir.name}: the training failed: {reason}; see {job.log}")
