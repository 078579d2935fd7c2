"""The command line: wrong input gives one clear line, and an exit code other than 0."""

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import small_runs

import main
import models
import train
from cifar_jax import errors
from cifar_jax.augment import chain
from cifar_jax.config import check_config
from cifar_jax.optim import optimizers, schedules
from configs import default

CONFIGS = sorted(
  str(path.relative_to(small_runs.ROOT))
  for path in (small_runs.ROOT / "configs").rglob("*.py")
  if path.name not in ("__init__.py", "check.py") and path.parent.name != "sweeps"
)


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_names_only_what_there_is(path):
  config = importlib.import_module(path.removesuffix(".py").replace("/", ".")).get_config()
  check_config(config, default.get_config())
  chain.parse(config.augment)
  schedule = schedules.create(config.schedule, config.optimizer.learning_rate, 100, 1000)
  tx = optimizers.create(config.optimizer, schedule)
  classes, size = (2, 150) if config.data.name == "cats_vs_dogs" else (10, 32)
  model = models.create(config.model, classes)
  images = jnp.zeros((1, size, size, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
  jax.eval_shape(tx.init, variables["params"])
  jax.eval_shape(lambda params: optimizers.l2_penalty(params, config.loss.l2), variables["params"])


@pytest.mark.parametrize(
  ("name", "total", "trainable"),
  [
    ("report000_simple_cnn", 847_530, 846_634),
    ("report000_resnet_plateau", 10_489_674, 10_476_106),
    ("report000_resnet_restarts", 10_489_674, 10_476_106),
    ("report002_model1", 2_233_898, 2_233_898),
    ("report002_model2", 2_233_898, 2_233_898),
    ("report002_model3", 1_668_906, 1_668_906),
    ("report002_final", 1_668_906, 1_668_906),
    ("report004_a", 2_168_362, 2_168_362),
    ("report004_b", 2_168_362, 2_168_362),
    # Not printed; counted by Keras for the same layers.
    ("report004_c", 2_170_474, 2_169_066),
    ("report001_basic_cnn", 1_231_370, 1_229_834),
    ("report001_inception", 5_492_746, 5_491_210),
    ("report001_residual", 1_298_186, 1_296_650),
    ("report003_cifar10", 11_189_194, None),
  ],
)
def test_reproductions_have_their_reports_totals(name, total, trainable):
  config = importlib.import_module(f"configs.reproductions.{name}").get_config()
  model = models.create(config.model, 10)
  images = jnp.zeros((1, 32, 32, 3))
  variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
  found = models.count_parameters(variables)
  assert sum(found) == total
  assert trainable is None or found[0] == trainable


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
    ("lookahead.decay", 1.1, "lookahead.decay: 1.1 must be in [0, 1]"),
    ("lookahead.every", -1, "lookahead.every: -1 must be at least 0"),
    ("last_epoch", 0.0, "last_epoch: 0.0 must be in (0, 1]"),
    ("stop_on_spike.factor", 0.5, "stop_on_spike.factor: 0.5 must be more than 1, or 0"),
    ("stop_on_spike.epochs", 0, "stop_on_spike.epochs: 0 must be at least 1"),
    ("tta", "flop", "tta: 'flop' is not one of '', flip, flip_shift1, flip_shift2, multicrop"),
    ("optimizer.freeze_after", ("bias",), "optimizer.freeze_after: 'bias' must be a pair"),
    ("select.monitor", "val_acc", "select.monitor: 'val_acc' is not one of train_loss"),
    ("data.validation", 0, "select.monitor: 'val_accuracy' needs validation examples"),
    ("plateau.mode", "auto", "plateau.mode: 'auto' is not one of min, max"),
    ("plateau.monitor", "val_objective", "plateau.monitor: 'val_objective' is the loss with its"),
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
    check_config(config, default.get_config())
  assert str(raised.value).startswith(message)
  assert "\n" not in str(raised.value)


YNNPACK = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
MALLOC = [
  f"glibc.malloc.{setting}"
  for setting in ("arena_max=1", "mmap_threshold=4294967296", "trim_threshold=4294967296")
]


def test_on_cpu_memory_is_kept_in_huge_pages_and_convolutions_are_eigen_s(monkeypatch):
  monkeypatch.setattr(sys, "platform", "linux")
  cpu = {"JAX_PLATFORMS": "cpu"}
  tunables = ":".join(["glibc.malloc.hugetlb=1", *MALLOC])
  there = cpu | {"GLIBC_TUNABLES": tunables, "XLA_FLAGS": YNNPACK}
  assert main.cpu_environment(cpu) == there
  assert main.cpu_environment(there) is None
  own = cpu | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2", "XLA_FLAGS": "--xla_dump_to=there"}
  assert main.cpu_environment(own) == cpu | {
    "GLIBC_TUNABLES": ":".join(["glibc.malloc.hugetlb=2", *MALLOC]),
    "XLA_FLAGS": f"--xla_dump_to=there {YNNPACK}",
  }
  all_of_ynnpack = "--xla_cpu_experimental_ynn_fusion_type="
  assert main.cpu_environment(there | {"XLA_FLAGS": all_of_ynnpack}) is None
  monkeypatch.setattr(sys, "platform", "darwin")
  assert main.cpu_environment(cpu) == cpu | {"XLA_FLAGS": YNNPACK}


def test_flags_are_for_the_versions_and_machines_they_were_tried_with(monkeypatch):
  monkeypatch.setattr(sys, "platform", "darwin")
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "libtpu" or None)
  assert main.cpu_environment({}) is None  # libtpu reads XLA_FLAGS too
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert main.cpu_environment({}) == {"XLA_FLAGS": YNNPACK}
  monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.9.1")
  assert main.cpu_environment({}) is None


def test_batch_size_that_does_not_divide_over_the_devices(tmp_path):
  config = default.get_config()
  config.batch_size = 100  # the tests run on eight devices
  with pytest.raises(errors.UserError, match="batch_size: 100 does not divide over 8 devices"):
    train.train_and_evaluate(config, str(tmp_path))


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
    ([CONFIG, "--workdir=x", "--workdir=y"], "error: --workdir: --mode=train takes one only"),
    (["--mode=evaluate"], "error: --workdir: missing"),
    (["--mode=predict", "--workdir=x"], "error: --mode=predict: name the image files"),
    (["--mode=evaluate", "--workdir=."], "error: .: not a run folder, it has no config.json"),
    (["--mode=sweep", "--workdir=x"], "error: --sweep: missing"),
    ([CONFIG, "--mode=lr_range", "--workdir=x", "--low=3", "--high=2"], "error: low, high: 3 to 2"),
    ([CONFIG, "--workdir=/proc/run"], "error: workdir: /proc/run cannot be written"),
  ],
)
def test_wrong_commands_get_one_line(arguments, message, tmp_path):
  (tmp_path / "broken.py").write_text("def get_config():\n  return undefined_name\n")
  done = subprocess.run(
    [sys.executable, str(small_runs.ROOT / "main.py"), *arguments],
    capture_output=True,
    text=True,
    cwd=tmp_path,
    timeout=120,
    env=small_runs.environment(),
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
  arguments = small_runs.command(data_dir, tmp_path)
  arguments += [f"--config.{name}={value}" for name, value in fields.items()]
  done = small_runs.run(arguments)
  assert done.returncode == 1, done.stderr
  last = done.stderr.splitlines()[-1]
  assert last.startswith(f"error: {message}"), done.stderr
  assert "Traceback" not in done.stderr
  assert not (tmp_path / "config.json").exists()  # the corrected command may use the folder


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


def test_two_runs_on_one_workdir(tmp_path_factory, tmp_path):
  import filelock

  data_dir = tmp_path_factory.getbasetemp() / "digits"
  with filelock.FileLock(tmp_path / ".lock"):
    done = small_runs.run(small_runs.command(data_dir, tmp_path))
  assert done.returncode == 1
  assert "workdir: another run is writing to" in done.stderr
