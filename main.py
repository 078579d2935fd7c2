"""The one entry: python main.py --config=configs/resnet18.py --workdir=/tmp/run

Any field of the config is overridden by --config.field=value. With --config:

  --mode=train      (the default) trains, or resumes what --workdir holds
  --mode=prepare    fetches and prepares the data only
  --mode=summary    prints the layers of the model and its parameters
  --mode=lr_range   tries learning rates from --low to --high, and suggests one
  --mode=sweep      trains the config with each choice of fields that --sweep names

With the --workdir of a run, and nothing else:

  --mode=evaluate   measures the selected weights on every split
  --mode=predict    classifies the image files and folders that follow; several --workdir give
                    several columns
  --mode=visualize  draws what the network has learnt and, of images that follow, what it sees
  --mode=report     writes report.html; several --workdir give a comparison
  --mode=export     writes the weights as safetensors and the network as StableHLO
"""

import importlib.metadata
import importlib.util
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

import modes
from cifar_jax import errors
from cifar_jax.runtime import console, distributed

# Fields that a config file does not list are accepted here and checked in configs/check.py and by
# what they are arguments of, whose messages name the alternatives.
config_flags.DEFINE_config_file(
  "config",
  None,
  "The experiment: a file of configs/.",
  lock_config=False,
  accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_multi_string(
  "workdir", [], "The run folder; made if it is not there. predict and report take several."
)
_MODE = flags.DEFINE_enum("mode", "train", list(modes.MODES), "What to do.")
_OPTIONS = {
  "heartbeat": flags.DEFINE_float(
    "heartbeat",
    None,
    "train: seconds between lines that tell how far it is; 0 for none (default: 60 where there is "
    "no terminal, and so no progress bar).",
    lower_bound=0.0,
  ),
  "profile": flags.DEFINE_string(
    "profile", "", "train: steps to trace, first:last, such as 100:110; into WORKDIR/profile."
  ),
  "seed": flags.DEFINE_integer("seed", None, "Of a run with several seeds: whose weights."),
  "tta": flags.DEFINE_string("tta", "", "evaluate: also with test-time augmentation, 'flip', …"),
  "json": flags.DEFINE_bool("json", False, "predict: print JSON."),
  "sweep": flags.DEFINE_string(
    "sweep", "", "sweep: a file of configs/sweeps/, or fields: 'model.depth=10,16 seed=0,1'."
  ),
  "task": flags.DEFINE_string("task", "0/1", "sweep: do the trials of task i of n only."),
  "low": flags.DEFINE_float("low", 1e-6, "lr_range: first learning rate."),
  "high": flags.DEFINE_float("high", 10.0, "lr_range: last learning rate."),
  "steps": flags.DEFINE_integer("steps", 300, "lr_range: training steps."),
}
_DEBUG = flags.DEFINE_bool("debug", False, "Show a traceback with every error.")
_COORDINATOR = flags.DEFINE_string(
  "coordinator_address", None, "host:port of process 0, where the cluster does not tell it."
)
_PROCESSES = flags.DEFINE_integer("num_processes", None, "With coordinator_address: how many.")
_PROCESS = flags.DEFINE_integer("process_id", None, "With coordinator_address: which this is.")
_JAXLIB_WITH_YNNPACK = ("0.10.", "0.12.")


def main(argv: list[str]) -> int | None:
  mode = modes.MODES[_MODE.value]
  paths = argv[1:]
  if paths and not mode.takes_paths:
    raise errors.UserError(f"{paths[0]}: not understood; options are written --name=value")
  if mode.needs_config and flags.FLAGS.config is None:
    raise errors.UserError("--config: missing; name an experiment, such as configs/resnet18.py")
  if mode.workdirs and not _WORKDIR.value:
    raise errors.UserError("--workdir: missing; name the folder that holds the run, or is to")
  if len(_WORKDIR.value) > 1 and mode.workdirs < 2:
    raise errors.UserError(f"--workdir: --mode={_MODE.value} takes one only")
  if mode.needs_jax:
    _start_jax(mode)
  options = {name: flag.value for name, flag in _OPTIONS.items()}
  code = mode.run(modes.Call(flags.FLAGS.config, _WORKDIR.value, paths, options))
  distributed.leave()
  return code


def _start_jax(mode: modes.Mode) -> None:
  """Joins the other processes, if any, and caches compiled programs across runs."""
  # With more virtual devices than cores (--xla_force_host_platform_device_count), XLA:CPU's
  # collectives block all threads of its pool and never end; NPROC is what sizes the pool.
  if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
    os.environ.setdefault("NPROC", "64")
  # The tasks of a sweep are runs of their own, however they were started.
  group = distributed.described(
    _COORDINATOR.value,
    _PROCESSES.value,
    _PROCESS.value,
    ask_cluster=_OPTIONS["task"].value == "0/1",
  )
  several = group is not None and group.count > 1
  if several and not mode.in_parallel:
    raise errors.UserError(f"--mode={_MODE.value}: runs in one process; start it once")
  import jax

  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.expanduser("~/.cache/cifar-jax")
  jax.config.update("jax_compilation_cache_dir", cache)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  if several:
    distributed.join(group)
    if group.index:
      console.log.setLevel("WARNING")  # the first process tells what all of them do


def cpu_environment(environment: Mapping[str, str]) -> dict[str, str] | None:
  """The environment in which XLA:CPU is quickest; None if this is that already.

  A step's temporary arrays are allocated anew each time, and the kernel hands them out in pages of
  4 KB, clearing each. On two cores a step of report 000's simple CNN took 315 ms so and 246 ms with
  huge pages. Where memory that was freed is kept for the next step there is nothing to clear: a
  step of ResNet-18 (batch 128) took 1,755 ms without and 1,397 ms with it, and the process had
  2.1 GB and 4.0 GB. Both are settings of glibc (2.35 or newer).

  Convolutions by Eigen instead of YNNPACK: with up to 64 outputs YNNPACK's took 1.3 to 1.8 times as
  long, and nowhere less. Steps of the simple CNN (batch 128) and of ResNet-18 (64), two cores:
  149 ms and 122 ms, 871 ms and 676 ms. XLA ends a program that names a flag it does not know, so
  this is for the versions it was tried with; and where no accelerator's library might read it.
  """
  changed = dict(environment)
  on_cpu = environment.get("JAX_PLATFORMS") == "cpu" or not any(
    importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu")
  )
  if sys.platform == "linux":
    _append(changed, "GLIBC_TUNABLES", "glibc.malloc.hugetlb", "=1", ":")
    if on_cpu:
      _append(changed, "GLIBC_TUNABLES", "glibc.malloc.arena_max", "=1", ":")
      for threshold in ("mmap_threshold", "trim_threshold"):
        _append(changed, "GLIBC_TUNABLES", f"glibc.malloc.{threshold}", f"={2**32}", ":")
  if on_cpu and importlib.metadata.version("jaxlib").startswith(_JAXLIB_WITH_YNNPACK):
    flag = "--xla_cpu_experimental_ynn_fusion_type"
    _append(changed, "XLA_FLAGS", flag, "=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION", " ")
  return changed if changed != environment else None


def _append(environment: dict[str, str], variable: str, name: str, value: str, by: str) -> None:
  """Adds name + value to a variable, unless the name is in it."""
  there = environment.get(variable, "")
  if name not in there:
    environment[variable] = by.join(filter(None, (there, name + value)))


def run() -> None:
  """Parses the command line and runs `main`; an error is one line, and a code other than 0."""
  if "--debug" not in sys.argv:
    # Libraries log tracebacks of the errors that they raise, which are told here in one line.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("concurrent.futures").setLevel(logging.CRITICAL)
    sys.unraisablehook = _unraisable
  console.show_log()
  try:
    app.run(main, flags_parser=_parse)
  except SystemExit:
    raise
  except BaseException as error:
    # By name, so that a wrong flag is answered without importing the training program.
    if "--debug" in sys.argv or "--debug=true" in sys.argv:
      raise
    if isinstance(error, BrokenPipeError):  # the reader of a table has seen enough
      sys.stderr.close()
      sys.exit(1)
    if type(error).__name__ == "Interrupted":
      distributed.leave()
      print(f"{error}: saved; the same command resumes", file=sys.stderr)
      sys.exit(128 + error.signum)
    message = _message(error)
    if distributed.joined():
      cause = error.__cause__ if message else error
      if isinstance(cause, RuntimeError | ValueError):  # what collectives raise when a peer is gone
        distributed.await_verdict()
      if message is None:
        traceback.print_exc()
      else:
        print(f"error: {message}", file=sys.stderr)
      distributed.abandon(1)
    if message is None:
      raise
    print(f"error: {message}", file=sys.stderr)
    sys.exit(1)


def _unraisable(unraisable: Any) -> None:
  # Orbax leaves reads and writes behind that failed with another, and end after their event loop.
  if "Event loop is closed" not in str(unraisable.exc_value):
    sys.__unraisablehook__(unraisable)


def _parse(argv: list[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
    getattr(flags.FLAGS.config, "seed", None)  # raises what went wrong in reading the file
  except flags.Error as error:
    raise errors.UserError(f"{error}; see --help") from error
  except Exception as error:  # a config is a program, and can fail in any way
    reason = f"{type(error).__name__}: {_last_line(error)}"
    raise errors.UserError(f"--config: cannot be loaded ({reason}); --debug shows where") from error
  return rest


def _last_line(error: Exception) -> str:
  return str(error).strip().splitlines()[-1].strip()


def _message(error: BaseException) -> str | None:
  """The line for an error that a person can mend, or None for one that is a fault of this code."""
  if isinstance(error, errors.UserError):
    return str(error)
  if isinstance(error, OSError):
    return f"{error.filename or 'I/O'}: {error.strerror or error}"
  if isinstance(error, KeyboardInterrupt):
    return "interrupted"
  return None


if __name__ == "__main__":
  # glibc reads its variable when a program starts, so this one starts once more, in its own place.
  if (_environment := cpu_environment(os.environ)) is not None:
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], _environment)
  run()
