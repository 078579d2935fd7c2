"""The modes that `--mode` selects: one function each, called with the parsed command line.

Each mode imports its dependencies lazily, to keep start-up fast.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from cifar_jax import errors


class Call(NamedTuple):
  """The command line of one call.

  Attributes:
    config: the experiment, None without --config.
    workdirs: the run folders.
    paths: the files and folders that follow the flags.
    options: the values of the other flags by name.
  """

  config: ml_collections.ConfigDict | None
  workdirs: list[str]
  paths: list[str]
  options: Mapping[str, Any]


class Mode(NamedTuple):
  """A mode and its requirements.

  Attributes:
    run: runs the mode and returns the exit code; None stands for 0.
    needs_config: whether --config is required.
    needs_workdir: whether --workdir is required.
    takes_workdirs: whether --workdir may be given several times.
    takes_paths: whether files and folders may follow the flags.
    starts_jax: whether JAX is started before the mode runs.
    in_parallel: whether several processes may run the mode together.
    reads_hub: whether hf://owner/name may stand for a run folder.
  """

  run: Callable[[Call], int | None]
  needs_config: bool = False
  needs_workdir: bool = False
  takes_workdirs: bool = False
  takes_paths: bool = False
  starts_jax: bool = True
  in_parallel: bool = False
  reads_hub: bool = False


def _print_lines(text: str) -> None:
  """Print lines; escape unprintable characters, which class names, for example, may contain."""
  print(errors.printable(text, keep="\n"))


def _train(call: Call) -> None:
  import jax

  import train
  from cifar_jax.runs import results, run_folder
  from cifar_jax.runtime import monitoring
  from cifar_jax.training import fork_parent

  (workdir,) = call.workdirs
  source = call.options["from"]
  fork = fork_parent.Fork(source, call.options["confirm_jump"], call.options["fresh_optimizer"])
  metrics = train.train_and_evaluate(
    call.config,
    workdir,
    heartbeat=call.options["heartbeat"],
    profile=monitoring.parse_steps(call.options["profile"]),
    fork=fork if source else None,
  )
  if jax.process_index() == 0:
    file = os.path.join(workdir, "results.json")
    with run_folder.reading(file):  # a finished run is only read, not trained again
      print(results.summarize(metrics))
    print(f"wrote {errors.printable(file)}")


def _prepare(call: Call) -> None:
  from cifar_jax.config import check_config
  from cifar_jax.data import datasets
  from configs import default

  assert call.config is not None  # main.py requires it for this mode
  check_config(call.config, default.get_config())
  data = call.config.data
  dataset = datasets.prepare(data.name, data.dir or None, data.source or None, data.options)
  print(
    f"{dataset.name}: {len(dataset.train.labels):,} training and {len(dataset.test.labels):,} test "
    f"images of {len(dataset.class_names)} classes, fingerprint {dataset.fingerprint}"
  )


def _dataset(call: Call) -> None:
  from analysis.visualize import dataset_picture
  from cifar_jax.config import check_config
  from configs import default

  assert call.config is not None  # main.py requires it for this mode
  check_config(call.config, default.get_config())
  path = dataset_picture.draw_dataset(call.config, call.options["picture"] or "dataset.png")
  print(f"wrote {errors.printable(path)}")


def _summary(call: Call) -> None:
  from analysis import summary
  from cifar_jax.config import check_config
  from configs import default

  check_config(call.config, default.get_config())
  print(summary.describe(call.config))


def _models(call: Call) -> None:
  from analysis import model_list

  print(model_list.describe(call.paths, call.options["json"]))


def _lr_range(call: Call) -> None:
  from tuning import lr_range

  (workdir,) = call.workdirs
  low, high, steps = (call.options[name] for name in ("low", "high", "steps"))
  rates = lr_range.lr_range_test(call.config, workdir, low, high, steps)
  if rates["suggested"] is not None:
    print(
      f"suggested learning rate: {rates['suggested']:.2g} (the loss is lowest at "
      f"{rates['lowest']:.2g}, and falls fastest at {rates['steepest']:.2g})"
    )
  for name in ("lr_range.json", "lr_range.png"):
    print(f"wrote {errors.printable(os.path.join(workdir, name))}")


def _sweep(call: Call) -> None:
  import jax

  from tuning import sweep

  text, (workdir,) = call.options["sweep"], call.workdirs
  if not text:
    raise errors.UserError(
      "--sweep: missing; name a file in configs/sweeps/, or fields, such as "
      "'optimizer.learning_rate=0.1,0.01 seed=0,1'"
    )
  ranking = sweep.run_sweep(sweep.parse(text), call.config, workdir)
  if jax.process_index() == 0:
    _print_lines(ranking["text"])


def _evaluate(call: Call) -> None:
  from analysis.evaluate import evaluate, evaluate_test_set

  (workdir,) = call.workdirs
  test_set, seed, tta = (call.options[name] for name in ("test_set", "seed", "tta"))
  if test_set:
    output = evaluate_test_set.evaluate_test_set(workdir, test_set, seed, tta)
  else:
    output = evaluate.evaluate(workdir, seed, tta)
  _print_lines(output["text"])


def _predict(call: Call) -> int:
  from analysis import predict

  if not call.paths:
    raise errors.UserError("--mode=predict: no images; name the files or folders after the options")
  return predict.predict(
    [*call.workdirs, *call.options["model"]],
    call.paths,
    as_json=call.options["json"],
    seed=call.options["seed"],
    picture=call.options["picture"],
    output=call.options["output"],
  )


def _visualize(call: Call) -> None:
  from analysis.visualize import visualize

  (workdir,) = call.workdirs
  options = {name: call.options[name] for name in ("seed", "layer", "features", "as_report")}
  for path in visualize.visualize(workdir, call.paths, **options):
    print(f"wrote {errors.printable(path)}")


def _page(call: Call, default: str) -> str:
  """Return the HTML file that --output names, or `default` without that flag."""
  from analysis.files import prepare_output

  output = call.options["output"]
  return str(prepare_output(output, (".html",))) if output else default


def _report(call: Call) -> None:
  from analysis.report import report

  if len(call.workdirs) == 1:
    path = report.write_report(call.workdirs[0], _page(call, ""))
  else:
    path = report.write_comparison(call.workdirs, _page(call, "comparison.html"))
  print(f"wrote {errors.printable(path)}")


def _compare(call: Call) -> None:
  from trust import compare

  if not call.paths:
    raise errors.UserError("--mode=compare: no runs; name run folders after the options")
  output = _page(call, "compare.html")
  _print_lines(compare.compare(call.paths, call.options["split"], output)["text"])


def _export(call: Call) -> None:
  from analysis import export, onnx_export
  from analysis.run import load_run

  run = load_run(call.workdirs[0], call.options["seed"])
  is_onnx = call.options["format"] == "onnx"
  for path in onnx_export.export_onnx(run) if is_onnx else export.export(run):
    print(f"wrote {errors.printable(path)}")


def _push(call: Call) -> None:
  from analysis import push

  if len(call.paths) != 1:
    raise errors.UserError(
      "--mode=push: name one repository after the options, such as hf://owner/name"
    )
  options = (call.options[name] for name in ("seed", "license", "private"))
  address, page = push.push(call.workdirs[0], call.paths[0], *options)
  print(f"wrote {address}\n{page}")


def _compute_on_cpu() -> None:
  """Keep this process off the accelerators, which its child processes need."""
  import jax

  jax.config.update("jax_platforms", "cpu")


def _verify(call: Call) -> int:
  import pathlib
  import tempfile

  from trust import verify

  _compute_on_cpu()
  epochs, batches = call.options["epochs"] or 2, call.options["batches"]
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(call.workdirs[0] if call.workdirs else temporary)
    outcome = verify.verify(call.config, folder, epochs, batches)
  _print_lines(outcome["text"])
  return int(not outcome["holds"])


def _check(call: Call) -> int:
  from trust import check

  _compute_on_cpu()
  text, code = check.check(call.paths, call.options["repair"], call.options["json"])
  _print_lines(text)
  return code


def _rerun(call: Call) -> int:
  import pathlib

  from trust import rerun

  if len(call.paths) != 1:
    raise errors.UserError("--mode=rerun: name one results.json or run folder after the options")
  _compute_on_cpu()
  (workdir,) = map(pathlib.Path, call.workdirs)
  text, code = rerun.rerun(
    call.paths[0], workdir, call.options["epochs"], call.options["other_seeds"]
  )
  _print_lines(text)
  return code


def _sync(call: Call) -> None:
  from analysis import sync

  if call.options["to"] is None:
    raise errors.UserError("--to: missing; name a tracker: wandb, mlflow, trackio or tensorboard")
  to, destination, follow = (call.options[name] for name in ("to", "destination", "follow"))
  run_id, state = sync.sync(call.workdirs[0], to, destination, follow)
  done = "finished" if state["finished"] else "so far"
  print(f"{to} has {state['rows']} epochs of the run ({done}), as {errors.printable(run_id)}")


def _completion(call: Call) -> None:
  from absl import flags

  from cifar_jax.config import flatten
  from cifar_jax.runtime import completion
  from configs import default

  names = ["config", "workdir", "mode", *call.options]
  words = [f"--{name}" + "=" * (not flags.FLAGS[name].boolean) for name in names]
  words += ["--debug", "--norestart", "--help"]
  print(completion.script(list(MODES), words, list(flatten(default.get_config()))), end="")


def _serve(call: Call) -> None:
  try:
    from serve import server
  except ModuleNotFoundError as error:
    if error.name not in ("python_multipart", "starlette", "uvicorn"):
      raise
    raise errors.UserError(
      f"--mode=serve: {error.name} is not installed; run: pip install -e '.[serve]'"
    ) from error

  server.serve(call.workdirs, call.options["host"], call.options["port"])


MODES = {
  "train": Mode(_train, needs_config=True, needs_workdir=True, in_parallel=True),
  "prepare": Mode(_prepare, needs_config=True, starts_jax=False),
  "dataset": Mode(_dataset, needs_config=True),
  "summary": Mode(_summary, needs_config=True),
  "models": Mode(_models, takes_paths=True),
  "lr_range": Mode(_lr_range, needs_config=True, needs_workdir=True),
  "sweep": Mode(_sweep, needs_workdir=True, in_parallel=True),
  "evaluate": Mode(_evaluate, needs_workdir=True),
  "predict": Mode(
    _predict, needs_workdir=True, takes_workdirs=True, takes_paths=True, reads_hub=True
  ),
  "visualize": Mode(_visualize, needs_workdir=True, takes_paths=True),
  "report": Mode(_report, needs_workdir=True, takes_workdirs=True, starts_jax=False),
  "compare": Mode(_compare, takes_paths=True),
  "export": Mode(_export, needs_workdir=True),
  "sync": Mode(_sync, needs_workdir=True, starts_jax=False),
  "push": Mode(_push, needs_workdir=True, takes_paths=True),
  "verify": Mode(_verify, needs_config=True, starts_jax=False),
  "rerun": Mode(_rerun, needs_workdir=True, takes_paths=True, starts_jax=False),
  "check": Mode(_check, takes_paths=True, starts_jax=False),
  "serve": Mode(_serve, needs_workdir=True, takes_workdirs=True),
  "completion": Mode(_completion, starts_jax=False),
}
