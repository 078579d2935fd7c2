"""The command line: wrong input gives one clear line, and an exit code other than 0."""

import sys

import filelock
import pytest
import small_runs

import experiment
import train
from cifar_jax import errors

CONFIG = f"--config={small_runs.ROOT / 'configs' / 'resnet18.py'}"


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
    (["evaluate"], "error: --workdir: missing"),
    ([CONFIG, "--workdir=x", "--workdir=y"], "error: --workdir: --mode=train takes only one"),
    (["--mode=evaluate"], "error: --workdir: missing"),
    (["--mode=predict", "--workdir=x"], "error: --mode=predict: no images"),
    (["report", "--workdir=x", "--output=r.pdf"], "error: --output: r.pdf must end in .html"),
    (["--mode=evaluate", "--workdir=."], "error: .: not a run folder, because it has no"),
    (["--mode=sweep", "--workdir=x"], "error: --sweep: missing"),
    (["--mode=sync", "--workdir=x"], "error: --to: missing; name a tracker"),
    (["--mode=push", "--workdir=x"], "error: --mode=push: name one repository after the options"),
    (["--mode=evaluate", "--workdir=hf://a/b"], "error: --workdir: --mode=evaluate needs a folder"),
    ([CONFIG, "--mode=lr_range", "--workdir=x", "--low=3", "--high=2"], "error: low, high: 3 to 2"),
    ([CONFIG, "--workdir=x", "--profile=9"], "error: --profile: '9' must be steps"),
    ([CONFIG, "--workdir=x", "--heartbeat=-1"], "--heartbeat=-1"),
    ([CONFIG, "--workdir=/proc/run"], "error: workdir: /proc/run cannot be written"),
  ],
)
def test_wrong_commands_get_one_line(arguments, message, tmp_path):
  (tmp_path / "broken.py").write_text("def get_config():\n  return undefined_name\n")
  done = small_runs.run(
    [sys.executable, str(small_runs.ROOT / "main.py"), *arguments], cwd=tmp_path
  )
  assert done.returncode == 1
  assert message in done.stderr
  assert done.stderr.count("\n") == 1, done.stderr
  assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"model.name": "resnet81"}, "model.name: unknown model 'resnet81'"),
    ({"data.name": "cifra10"}, "data.name: unknown dataset 'cifra10'"),
    ({"schedule.name": "cosin"}, "schedule.name: unknown schedule 'cosin'"),
    ({"optimizer.name": "sdg"}, "optimizer.name: unknown optimizer 'sdg'"),
    ({"augment": "random_flp"}, "augment: unknown transform 'random_flp'"),
    ({"loss.l2": (("kernle$", 1e-4),)}, "loss.l2: pattern 'kernle$' matches no parameter"),
    ({"batch_size": 5000}, "batch_size: 5000 is more than the 1293 training examples"),
    (
      {"num_seeds": 2, "data.resident_bytes": 0},
      "num_seeds: several seeds need the dataset on the",
    ),
  ],
)
def test_unknown_names_list_the_known(fields, message, tmp_path_factory, tmp_path):
  config = small_runs.config(tmp_path_factory.getbasetemp() / "digits", **fields)
  with pytest.raises(errors.UserError) as raised:
    train.train_and_evaluate(config, str(tmp_path))
  assert str(raised.value).startswith(message)
  assert not (tmp_path / "config.json").exists()  # the corrected command may use the folder


def test_an_unknown_argument_of_the_model_gets_one_line(tmp_path_factory, tmp_path):
  data_dir = tmp_path_factory.getbasetemp() / "digits"
  done = small_runs.run([*small_runs.command(data_dir, tmp_path), "--config.model.widht=3"])
  assert done.returncode == 1, done.stderr
  assert done.stderr.splitlines()[-1].startswith("error: model.widht: ")
  assert "Traceback" not in done.stderr
  assert not (tmp_path / "config.json").exists()


def test_batch_size_that_does_not_divide_over_the_devices(tmp_path):
  config = small_runs.config(tmp_path, batch_size=100)  # the tests run on eight devices
  with pytest.raises(errors.UserError, match="batch_size: 100 does not divide over 8 devices"):
    experiment.resolve(config)


def test_training_starts_without_tensorflow_or_keras(tmp_path_factory, tmp_path):
  data_dir = tmp_path_factory.getbasetemp() / "digits"
  arguments = small_runs.command(data_dir, "a/relative/workdir", num_epochs=1)
  done = small_runs.run([arguments[0], "-X", "importtime", *arguments[1:]], cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "a" / "relative" / "workdir" / "results.json").exists()
  imported = {
    line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if "import time:" in line
  }
  assert "jax" in imported and "orbax.checkpoint" in imported
  roots = {name.split(".")[0] for name in imported}
  assert not roots & {"tensorflow", "keras"}


def test_two_runs_on_one_workdir(tmp_path):
  with (
    filelock.FileLock(tmp_path / ".lock"),
    pytest.raises(errors.UserError, match=r"^workdir: another run is writing to"),
  ):
    train.train_and_evaluate(small_runs.config(tmp_path), str(tmp_path))
