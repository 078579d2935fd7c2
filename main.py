"""The command line: python main.py --config=configs/resnet18.py --workdir=/tmp/run

Override any field of the config with --config.field=value. The mode may also be the first word:
python main.py evaluate --workdir=/tmp/run. These modes need --config:

  --mode=train      train, or resume the run in --workdir; this is the default
  --mode=prepare    fetch and prepare the dataset only
  --mode=dataset    draw images of the dataset with their labels, into --picture
  --mode=summary    print the layers of the model and their parameters
  --mode=lr_range   try learning rates from --low to --high, and suggest one
  --mode=sweep      train the config with each choice of field values in --sweep, and rank the
                    trials; a file of configs/sweeps/ with base= needs no --config
  --mode=verify     train a shortened config in several ways, and report which give the same bits

These modes need only the --workdir of a run:

  --mode=evaluate   evaluate the selected weights on every split, or on another --test_set
  --mode=predict    classify the image files and folders that follow; several --workdir give a
                    column each
  --mode=visualize  draw what the network has learnt and how it sees the images that follow
  --mode=report     write report.html, or a comparison of several --workdir
  --mode=export     write the weights as safetensors and the network by jax.export, or as ONNX
  --mode=sync       send the run to the tracker that --to names; with --follow, while it trains
  --mode=push       share the run on the Hugging Face hub, as the hf://owner/name that follows
  --mode=serve      serve a live page of the runs below each --workdir, and classify photos that
                    users drop on it or programs send

These modes need folders as further arguments:

  --mode=compare    test whether the configs of run folders really differ
  --mode=check      verify every hash of run folders and data directories

This mode needs --workdir and a record:

  --mode=rerun      repeat the run of the results.json or run folder that follows, in --workdir,
                    and report whether the results are the same

These modes need no arguments:

  --mode=models     list the networks with parameters, FLOPs and recorded accuracy, or those whose
                    names match the patterns that follow, such as '*resnet*'
  --mode=completion print the script that completes this command in bash and zsh
"""

import os
import sys

from absl import app, flags
from ml_collections import config_flags

import modes
from cifar_jax import errors
from cifar_jax.runs import hub
from cifar_jax.runtime import console, distributed, process_group, shutdown, startup

# A flag may set a field that the config file lacks. check_config, or the function that takes the
# field as an argument, rejects unknown names later, in messages that list the known ones.
config_flags.DEFINE_config_file(
  "config",
  None,
  "The experiment, a file in configs/.",
  lock_config=False,
  accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_multi_string(
  "workdir", [], "The run folder; created if needed. predict, report and serve take several."
)
_MODE = flags.DEFINE_enum("mode", "train", list(modes.MODES), "What to do.")
_OPTIONS = {
  "heartbeat": flags.DEFINE_float(
    "heartbeat",
    None,
    "train: seconds between progress lines; 0 for none (default: 60, or none on a terminal, which "
    "shows a progress bar).",
    lower_bound=0.0,
  ),
  "profile": flags.DEFINE_string(
    "profile", "", "train: trace the steps first:last, such as 100:110, into WORKDIR/profile."
  ),
  "from": flags.DEFINE_string(
    "from",
    "",
    "train: start from a checkpoint of another run: RUN (the newest), RUN@step, or RUN@best.",
  ),
  "confirm_jump": flags.DEFINE_bool(
    "confirm_jump", False, "train --from: accept a learning rate that jumps at the fork."
  ),
  "fresh_optimizer": flags.DEFINE_bool(
    "fresh_optimizer", False, "train --from: drop the parent's optimizer state."
  ),
  "seed": flags.DEFINE_integer("seed", None, "Use the weights of this seed, if there are several."),
  "tta": flags.DEFINE_string("tta", "", "evaluate: also use test-time augmentation: 'flip', …"),
  "json": flags.DEFINE_bool("json", False, "models, predict, check: print JSON."),
  "output": flags.DEFINE_string(
    "output",
    "",
    "predict: the .csv, .jsonl, .json or .txt file to write instead of printing. report, compare: "
    "the HTML file to write.",
  ),
  "test_set": flags.DEFINE_string(
    "test_set",
    "",
    "evaluate: use another test set instead: 'corruptions', the folder of CIFAR-10-C or "
    "CIFAR-10.1, a folder with one folder per class, or 'images.npy,labels.npy'.",
  ),
  "picture": flags.DEFINE_string(
    "picture",
    "",
    "predict: also write this PNG, with each photo and the class that each network predicts. "
    "dataset: the PNG to write (default: dataset.png).",
  ),
  "layer": flags.DEFINE_string(
    "layer", "", "visualize: the layer in features.png (default: the last before the classifier)."
  ),
  "features": flags.DEFINE_string(
    "features",
    "",
    "visualize: two features of the layer, such as 3,7 (default: the two that vary most).",
  ),
  "as_report": flags.DEFINE_bool(
    "as_report", False, "visualize: also draw activations and filters as report 001 does."
  ),
  "split": flags.DEFINE_enum(
    "split",
    "validation",
    ["validation", "test"],
    "compare: the split to compare on; 'test' counts as a use of the test images.",
  ),
  "sweep": flags.DEFINE_string(
    "sweep",
    "",
    "sweep: a file in configs/sweeps/, or fields with their values: 'batch_size=64,128 seed=0,1'. "
    "docs/sweeps.md explains TPE, halving and several workers.",
  ),
  "low": flags.DEFINE_float("low", 1e-6, "lr_range: first learning rate."),
  "high": flags.DEFINE_float("high", 10.0, "lr_range: last learning rate."),
  "steps": flags.DEFINE_integer("steps", 300, "lr_range: training steps."),
  "format": flags.DEFINE_enum(
    "format", "", ["", "onnx"], "export: the format (default: safetensors and jax.export)."
  ),
  "model": flags.DEFINE_multi_string(
    "model", [], "predict: a file that --mode=export wrote, to use instead of a run or as well."
  ),
  "to": flags.DEFINE_enum(
    "to", None, ["wandb", "mlflow", "trackio", "tensorboard"], "sync: the tracker."
  ),
  "destination": flags.DEFINE_string(
    "destination",
    "",
    "sync: the project of wandb or trackio, the experiment of mlflow, or the folder of tensorboard "
    "(gs:// too).",
  ),
  "follow": flags.DEFINE_bool("follow", False, "sync: keep sending until the run is finished."),
  "license": flags.DEFINE_string(
    "license", "", "push: the licence that the model card names, such as apache-2.0."
  ),
  "private": flags.DEFINE_bool("private", False, "push: make a new repository private."),
  "epochs": flags.DEFINE_integer(
    "epochs",
    None,
    "verify: the epochs of each training (default: 2). rerun: how many of the record's epochs to "
    "repeat (default: all).",
    lower_bound=1,
  ),
  "batches": flags.DEFINE_integer("batches", 8, "verify: the batches of an epoch.", lower_bound=1),
  "other_seeds": flags.DEFINE_integer(
    "other_seeds",
    7,
    "rerun: the number of further seeds to train, to measure the spread of seeds.",
    lower_bound=1,
  ),
  "repair": flags.DEFINE_bool(
    "repair", False, "check: restore what can be restored; damaged files are set aside."
  ),
  "host": flags.DEFINE_string(
    "host", "127.0.0.1", "serve: the address to listen on; any but loopback needs a token."
  ),
  "port": flags.DEFINE_integer("port", 8000, "serve: the port; 0 for any free port."),
}
flags.DEFINE_bool("debug", False, "Show a traceback with every error.")
flags.DEFINE_bool(
  "restart",
  True,
  "Restart once with the fastest settings of glibc and XLA, except under a debugger.",
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator_address", None, "host:port of process 0, if the cluster does not provide it."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes",
  None,
  "With coordinator_address: the number of processes. 1 makes this process a separate run, even if "
  "a cluster started it with others.",
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "With coordinator_address: the number of this process, from 0."
)


def main(argv: list[str]) -> int | None:
  """Check the flags, start JAX and run the mode; return the exit code, None for 0."""
  mode = modes.MODES[_MODE.value]
  paths = argv[1:]
  if paths and not mode.takes_paths:
    raise errors.UserError(
      f"{paths[0]}: not understood; write options as --name=value, after one of the modes "
      f"{', '.join(modes.MODES)}"
    )
  if mode.needs_config and flags.FLAGS.config is None:
    raise errors.UserError("--config: missing; name an experiment, such as configs/resnet18.py")
  if mode.needs_workdir and not _WORKDIR.value and not (mode.reads_hub and _OPTIONS["model"].value):
    raise errors.UserError("--workdir: missing; pass the run folder (it is created if needed)")
  if len(_WORKDIR.value) > 1 and not mode.takes_workdirs:
    raise errors.UserError(f"--workdir: --mode={_MODE.value} takes only one; pass one run folder")
  if not mode.reads_hub and any(map(hub.is_address, _WORKDIR.value)):
    raise errors.UserError(
      f"--workdir: --mode={_MODE.value} needs a folder on this machine; download the files with "
      "`hf download owner/name --local-dir=DIR`, and pass DIR"
    )
  if mode.starts_jax:
    startup.size_thread_pool()
    group = process_group.resolve_process_group(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
    if group is not None and not mode.in_parallel:
      raise errors.UserError(f"--mode={_MODE.value}: runs in one process; start it once")
    startup.start_jax(group)
  options = {name: flag.value for name, flag in _OPTIONS.items()}
  # Shells do not expand a ~ after "=".
  workdirs = [os.path.expanduser(path) for path in _WORKDIR.value]
  options["from"] = os.path.expanduser(str(options["from"]))
  code = mode.run(modes.Call(flags.FLAGS.config, workdirs, paths, options))
  distributed.leave()
  return code


def run() -> None:
  """Parse the command line and run `main`; an error becomes one line and a non-zero exit code."""
  # Read without absl, because absl may reject the flags.
  debug = startup.boolean_flag(sys.argv, "debug", default=False)
  console.show_log()
  shutdown.escape_output()
  if not debug:
    shutdown.silence_libraries()
  try:
    app.run(main, flags_parser=_parse)
  except SystemExit:
    raise
  except BaseException as error:
    if debug:
      raise
    shutdown.exit_with(error)


def _parse(argv: list[str]) -> list[str]:
  if len(argv) > 1 and argv[1] in modes.MODES:
    argv = [argv[0], f"--mode={argv[1]}", *argv[2:]]
  try:
    paths = flags.FLAGS(argv)
    getattr(flags.FLAGS.config, "seed", None)  # raises any error from reading the config file
  except flags.Error as error:
    raise errors.UserError(f"{error}; see --help") from error
  except Exception as error:  # a config is a program, and can fail in any way
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[-1].strip()}"
    raise errors.UserError(f"--config: cannot be loaded ({reason}); --debug shows where") from error
  return paths


if __name__ == "__main__":
  startup.restart_if_needed(sys.argv)
  run()
