"""What `--mode` names: each function is called with what the command line said.

What a mode needs is imported when it is used, so that each start pays for itself alone.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cifar_jax import errors


class Call(NamedTuple):
  """What the command line said.

  Attributes:
    config: the experiment, None if there is none.
    workdirs: the run folders.
    paths: further arguments, which are files and folders.
    options: the other flags by name.
  """

  config: Any
  workdirs: list[str]
  paths: list[str]
  options: Mapping[str, Any]


class Mode(NamedTuple):
  """A mode: what it does, and what it cannot do without.

  Attributes:
    run: does it, and returns the exit code; None is 0.
    needs_config: whether --config must be there.
    workdirs: how many run folders: 0 (none is used), 1 or 2 (any number).
    takes_paths: whether files and folders may follow.
    needs_jax: whether anything is computed.
    in_parallel: whether several processes may do it together.
  """

  run: Callable[[Call], int | None]
  needs_config: bool
  workdirs: int
  takes_paths: bool = False
  needs_jax: bool = True
  in_parallel: bool = False


def _train(call: Call) -> None:
  import jax

  import train
  from cifar_jax.runs import results
  from cifar_jax.runtime import monitoring

  (workdir,) = call.workdirs
  found = train.train_and_evaluate(
    call.config,
    workdir,
    heartbeat=call.options["heartbeat"],
    profile=monitoring.parse_steps(call.options["profile"]),
  )
  if jax.process_index() == 0:
    print(results.summary(found))
    print(f"wrote {os.path.join(workdir, 'results.json')}")


def _prepare(call: Call) -> None:
  from cifar_jax.config import check_config
  from cifar_jax.data import datasets
  from configs import default

  check_config(call.config, default.get_config())
  data = call.config.data
  dataset = datasets.prepare(data.name, data.dir or None, data.source or None, data.options)
  print(
    f"{dataset.name}: {len(dataset.train.labels):,} training and {len(dataset.test.labels):,} test "
    f"images of {len(dataset.class_names)} classes, fingerprint {dataset.fingerprint}"
  )


def _summary(call: Call) -> None:
  from analysis import summary
  from cifar_jax.config import check_config
  from configs import default

  check_config(call.config, default.get_config())
  print(summary.describe(call.config))


def _lr_range(call: Call) -> None:
  from tuning import lr_range

  (workdir,) = call.workdirs
  low, high, steps = (call.options[name] for name in ("low", "high", "steps"))
  found = lr_range.lr_range_test(call.config, workdir, low, high, steps)
  if found["suggested"] is not None:
    print(
      f"suggested learning rate: {found['suggested']:.2g} (the loss is lowest at "
      f"{found['lowest']:.2g}, and falls fastest at {found['steepest']:.2g})"
    )
  for name in ("lr_range.json", "lr_range.png"):
    print(f"wrote {os.path.join(workdir, name)}")


def _sweep(call: Call) -> None:
  import jax

  from tuning import sweep

  text, (workdir,) = call.options["sweep"], call.workdirs
  if not text:
    raise errors.UserError(
      "--sweep: missing; name a file of configs/sweeps/, or fields, such as "
      "'optimizer.learning_rate=0.1,0.01 seed=0,1'"
    )
  parts = call.options["task"].split("/")
  if len(parts) != 2 or not all(part.isdigit() for part in parts):
    raise errors.UserError(f"--task: {call.options['task']!r} is not of the form 0/8")
  found = sweep.run_sweep(sweep.parse(text), call.config, workdir, tuple(map(int, parts)))
  if jax.process_index() == 0:
    print(found["text"])


def _evaluate(call: Call) -> None:
  from analysis import evaluate

  (workdir,) = call.workdirs
  print(evaluate.evaluate(workdir, call.options["seed"], call.options["tta"])["text"])


def _predict(call: Call) -> int:
  from analysis import predict

  if not call.paths:
    raise errors.UserError("--mode=predict: name the image files or folders after the options")
  text, code = predict.predict(
    call.workdirs, call.paths, as_json=call.options["json"], seed=call.options["seed"]
  )
  print(text)
  return code


def _visualize(call: Call) -> None:
  from analysis.visualize import visualize

  (workdir,) = call.workdirs
  for path in visualize.visualize(workdir, call.paths, call.options["seed"]):
    print(f"wrote {path}")


def _report(call: Call) -> None:
  from analysis.report import report

  if len(call.workdirs) == 1:
    path = report.report(call.workdirs[0])
  else:
    path = report.compare(call.workdirs, "comparison.html")
  print(f"wrote {path}")


def _export(call: Call) -> None:
  from analysis import export
  from analysis.run import load_run

  for path in export.export(load_run(call.workdirs[0], call.options["seed"])):
    print(f"wrote {path}")


MODES = {
  "train": Mode(_train, needs_config=True, workdirs=1, in_parallel=True),
  "prepare": Mode(_prepare, needs_config=True, workdirs=0, needs_jax=False),
  "summary": Mode(_summary, needs_config=True, workdirs=0),
  "lr_range": Mode(_lr_range, needs_config=True, workdirs=1),
  "sweep": Mode(_sweep, needs_config=False, workdirs=1, in_parallel=True),
  "evaluate": Mode(_evaluate, needs_config=False, workdirs=1),
  "predict": Mode(_predict, needs_config=False, workdirs=2, takes_paths=True),
  "visualize": Mode(_visualize, needs_config=False, workdirs=1, takes_paths=True),
  "report": Mode(_report, needs_config=False, workdirs=2, needs_jax=False),
  "export": Mode(_export, needs_config=False, workdirs=1),
}
