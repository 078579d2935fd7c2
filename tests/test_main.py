"""The command line: wrong input gives one clear line, and an exit code other than 0."""

import subprocess
import sys

import pytest
import runs

import errors
import train
from configs import check, default, quickstart, resnet18


@pytest.mark.parametrize("module", [default, quickstart, resnet18])
def test_configs_pass_their_own_check(module):
  check.check(module.get_config())


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("num_epoch", 3, "num_epoch: no such config field; did you mean 'num_epochs'?"),
    ("data.nmae", "x", "data.nmae: no such config field; did you mean 'data.name'?"),
    ("num_epochs", -1, "num_epochs: -1 must be at least 1"),
    ("num_epochs", "ten", "num_epochs: 'ten' must be of type int"),
    ("batch_size", 0, "batch_size: 0 must be at least 1"),
    ("optimizer.learning_rate", -0.1, "optimizer.learning_rate: -0.1 must be at least 0"),
    ("optimizer.learning_rate", float("nan"), "optimizer.learning_rate: nan must be at least 0"),
    ("dtype", "float16", "dtype: 'float16' is not one of auto, float32, bfloat16"),
    ("data.validation", 1.5, "data.validation: 1.5 must be a fraction in [0, 1), a count"),
    ("data.validation", "tset", "data.validation: 'tset' must be a fraction in [0, 1), a count"),
    ("loss.label_smoothing", 1.0, "loss.label_smoothing: 1.0 must be in [0, 1)"),
    ("loss.l2", (("kernel", -1.0),), "loss.l2: ('kernel', -1.0) must be a pair"),
    ("ema_decay", 1.0, "ema_decay: 1.0 must be in [0, 1)"),
    ("select.monitor", "val_acc", "select.monitor: 'val_acc' is not one of train_loss"),
    ("data.validation", 0, "select.monitor: 'val_accuracy' needs validation examples"),
    ("plateau.mode", "auto", "plateau.mode: 'auto' is not one of min, max"),
  ],
)
def test_impossible_fields_are_named(field, value, message):
  config = default.get_config()
  *parents, leaf = field.split(".")
  section = config
  for parent in parents:
    section = section[parent]
  with section.ignore_type():
    section[leaf] = value
  with pytest.raises(errors.UserError) as raised:
    check.check(config)
  assert str(raised.value).startswith(message)
  assert "\n" not in str(raised.value)


def test_batch_size_that_does_not_divide_over_the_devices(tmp_path):
  config = default.get_config()
  config.batch_size = 100  # the tests run on eight devices
  with pytest.raises(errors.UserError, match="batch_size: 100 does not divide over 8 devices"):
    train.train_and_evaluate(config, str(tmp_path))


CONFIG = f"--config={runs.ROOT / 'configs' / 'resnet18.py'}"


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "error: --config: missing; name an experiment"),
    ([CONFIG], "error: --workdir: missing"),
    (["--config=configs/resnet81.py"], "No such file or directory: 'configs/resnet81.py'"),
    (["--config=broken.py", "--workdir=x"], "error: --config: cannot be loaded (NameError: "),
    ([CONFIG, "--mode=trian", "--workdir=x"], "flag --mode=trian: value should be one of"),
    ([CONFIG, "--workdri=x"], "Unknown command line flag 'workdri'"),
    ([CONFIG, "--workdir=x", "--config.num_epoch=3"], "error: num_epoch: no such config field"),
    ([CONFIG, "--workdir=x", "--config.num_epochs=many"], "flag --config.num_epochs=many"),
    ([CONFIG, "--workdir=x", "stray"], "error: stray: not understood"),
    ([CONFIG, "--workdir=/proc/run"], "error: workdir: /proc/run cannot be written"),
  ],
)
def test_wrong_commands_get_one_line(arguments, message, tmp_path):
  (tmp_path / "broken.py").write_text("def get_config():\n  return undefined_name\n")
  done = subprocess.run(
    [sys.executable, str(runs.ROOT / "main.py"), *arguments],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    timeout=120,
    env=runs.environment(),
  )
  assert done.returncode != 0
  assert message in done.stderr
  assert done.stderr.count("\n") == 1, done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
  ("field", "message"),
  [
    ("model.name=resnet81", "model.name: unknown model 'resnet81'"),
    ("model.widht=3", "model.widht: "),
    ("data.name=cifra10", "data.name: unknown dataset 'cifra10'"),
    ("schedule.name=cosin", "schedule.name: unknown schedule 'cosin'"),
    ("optimizer.name=sdg", "optimizer.name: unknown optimizer 'sdg'"),
    ("augment=random_flp", "augment: unknown transform 'random_flp'"),
    ("loss.l2=(('kernle$',1e-4),)", "loss.l2: pattern 'kernle$' matches no parameter"),
    ("batch_size=5000", "batch_size: 5000 is more than the 1293 training examples"),
    ("num_seeds=2 data.resident_bytes=0", "num_seeds: several seeds need the data set on the"),
  ],
)
def test_unknown_names_list_the_known(field, message, tmp_path_factory, tmp_path):
  data_dir = tmp_path_factory.getbasetemp() / "digits"
  fields = dict(pair.split("=", 1) for pair in field.split(" "))
  arguments = runs.command(data_dir, tmp_path)
  arguments += [f"--config.{name}={value}" for name, value in fields.items()]
  done = runs.run(arguments)
  assert done.returncode == 1, done.stderr
  last = done.stderr.splitlines()[-1]
  assert last.startswith(f"error: {message}"), done.stderr
  assert "Traceback" not in done.stderr


def test_training_starts_without_tensorflow_or_keras(tmp_path_factory, tmp_path):
  data_dir = tmp_path_factory.getbasetemp() / "digits"
  arguments = runs.command(data_dir, "a/relative/workdir", num_epochs=1)
  done = runs.run([arguments[0], "-X", "importtime", *arguments[1:]], cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "a" / "relative" / "workdir" / "results.json").exists()
  imported = {
    line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "import time:" in line
  }
  assert "jax" in imported and "orbax.checkpoint" in imported
  roots = {name.split(".")[0] for name in imported}
  assert not roots & {"tensorflow", "keras"}


def test_two_runs_on_one_workdir(tmp_path_factory, tmp_path):
  import filelock

  data_dir = tmp_path_factory.getbasetemp() / "digits"
  with filelock.FileLock(tmp_path / ".lock"):
    done = runs.run(runs.command(data_dir, tmp_path))
  assert done.returncode == 1
  assert "workdir: another run is writing to" in done.stderr
