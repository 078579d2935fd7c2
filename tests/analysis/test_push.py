"""Sharing runs: pushed to a hub, loaded from there, and what a repository cannot do."""

import json

import jax
import numpy as np
import pytest
import small_hub
import small_runs
from corner_network import predict_text
from huggingface_hub import ModelCard, constants
from safetensors.numpy import save, save_file
from scipy import stats

from analysis import load_run, model_card, push, run_record, shared_run
from cifar_jax import errors
from cifar_jax.runs import hub as hub_module
from cifar_jax.runs import test_uses, weights_file
from models import transfer

ADDRESS = "hf://someone/small-run"
REPOSITORY = "someone/small-run"


@pytest.fixture
def hub(monkeypatch, tmp_path):
  """A hub on loopback, and an empty cache."""
  with small_hub.serve() as server:
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.split("{repo_id}")[1]
    monkeypatch.setattr(
      constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.endpoint}/{{repo_id}}{template}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "a-token")
    yield server


@pytest.fixture(scope="module")
def files(workdir):
  """What a push of the shared run uploads."""
  return push.collect_files(workdir, ADDRESS)


def test_a_pulled_run_answers_as_the_pushed_one(workdir, hub, data_dir):
  address, page = push.push(workdir, ADDRESS)
  assert page == f"{hub.endpoint}/{REPOSITORY}"
  commit = address.split("@")[1]
  assert hub.files(REPOSITORY)[0] == commit
  run, pulled = load_run(workdir), load_run(ADDRESS)
  images = np.random.RandomState(0).randint(0, 256, (9, *run.image_shape), np.uint8)
  np.testing.assert_array_equal(pulled.logits(images), run.logits(images))
  assert pulled.class_names == run.class_names
  assert pulled.results == run.results and pulled.metrics == run.metrics
  assert (pulled.seed, pulled.step) == (run.seed, run.step)
  assert str(data_dir) not in str(hub.files(REPOSITORY)[1]["config.json"])
  picture = small_runs.ROOT / "docs" / "gallery" / "grad_cam.png"
  assert predict_text([ADDRESS], [picture])[0].startswith(f"{'':{len(str(picture))}}  small-run\n")
  jax.tree.map(np.testing.assert_array_equal, dict(transfer.load(ADDRESS)), dict(run.variables))

  hub.commit(REPOSITORY, {weights_file.NAME: b"a newer commit"})
  np.testing.assert_array_equal(load_run(address).logits(images), run.logits(images))
  with pytest.raises(errors.UserError, match="not a safetensors file"):
    load_run(ADDRESS)


def test_a_second_push_and_a_private_one(workdir, hub):
  push.push(workdir, ADDRESS)
  push.push(workdir, ADDRESS)
  assert len(hub.commits[REPOSITORY]) == 2
  push.push(workdir, "hf://someone/secret", private=True)
  assert hub.private == {"someone/secret"}


def test_a_cached_run_needs_no_network_connection(hub, files, monkeypatch):
  commit = hub.commit(REPOSITORY, files)
  pulled = load_run(ADDRESS)
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  for address in (ADDRESS, f"{ADDRESS}@{commit}"):
    again = load_run(address)
    jax.tree.map(np.testing.assert_array_equal, dict(again.variables), dict(pulled.variables))
  with pytest.raises(
    errors.UserError, match=r"hf://someone/else: unavailable \(.+\); check the name"
  ):
    load_run("hf://someone/else")


def test_only_known_files_are_downloaded(hub, files):
  hub.commit(REPOSITORY, files | {"setup.py": b"raise SystemExit", "model.pkl": b"cos\nsystem\n"})
  folder = load_run(ADDRESS).path
  assert {path.name for path in folder.iterdir()} <= set(hub_module.RUN_FILES)
  assert not [request for request in hub.requests if "setup.py" in request or ".pkl" in request]


def test_weights_of_other_programs_are_taken_by_their_names(hub):
  """As timm's repositories have them, with a config.json that is not of this program."""
  arrays = {"conv1.weight": np.zeros((4, 3, 3, 3), np.float32), "fc.bias": np.ones(2, np.float32)}
  arrays["layer1.0.conv1.weight"] = np.zeros((4, 4, 3, 3), np.float32)
  config = b'{"architecture": "resnet18"}'
  hub.commit("timm/resnet18", {"model.safetensors": save(arrays), "config.json": config})
  weights = transfer.load("hf://timm/resnet18")
  np.testing.assert_array_equal(weights["params"]["head"]["bias"], [1, 1])
  assert weights["params"]["stem_conv"]["kernel"].shape == (3, 3, 3, 4)
  assert not [request for request in hub.requests if "config.json" in request]
  hub.commit("timm/resnet18", {"model.safetensors": b"damaged"})
  with pytest.raises(errors.UserError, match="not a safetensors file"):
    transfer.load("hf://timm/resnet18")


def test_a_file_that_is_too_large_is_not_downloaded(hub, files):
  hub.commit(REPOSITORY, files)
  hub.sizes["config.json"] = 1024**2 + 1
  with pytest.raises(
    errors.UserError, match=r"config\.json is 1,048,577 bytes, but at most 1,048,576"
  ):
    load_run(ADDRESS)
  assert not [request for request in hub.requests if "resolve" in request]


def test_a_repository_without_a_run_is_refused(hub):
  hub.commit(REPOSITORY, {"README.md": b"nothing"})
  with pytest.raises(errors.UserError, match="hf://someone/small-run: holds none of weights"):
    load_run(ADDRESS)
  with pytest.raises(errors.UserError, match="hf://someone/nothing: unavailable"):
    load_run("hf://someone/nothing")
  for address in ("hf://someone", "hf://a/b/c", "hf://a/b@", "hf://../b?x"):
    with pytest.raises(errors.UserError, match="not an address on the hub; write hf://owner/name"):
      load_run(address)


def test_files_that_contradict_the_weights_are_refused(files, tmp_path):
  for name, content in files.items():
    (tmp_path / name).write_bytes(content)
  np.testing.assert_equal(load_run(tmp_path).seed, 0)
  config = json.loads(files["config.json"]) | {"eval_transform": "pad_and_resize(padding=4)"}
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(
    errors.UserError, match=r"config\.json is not the one that the weights were saved with"
  ):
    load_run(tmp_path)


def test_altered_weights_and_configs_are_noticed(files, tmp_path):
  path = tmp_path / weights_file.NAME
  path.write_bytes(files[weights_file.NAME])
  metadata, arrays = weights_file.read_arrays(path)
  name = next(iter(arrays))
  save_file(arrays | {name: arrays[name] + 1}, path, metadata)
  with pytest.raises(errors.UserError, match="arrays_sha256 does not match the content"):
    load_run(path)
  save_file(
    arrays, path, metadata | {"config": metadata["config"].replace("simple_cnn", "resnet18")}
  )
  with pytest.raises(errors.UserError, match="config_sha256 does not match the content"):
    load_run(path)
  save_file(arrays, path)
  with pytest.raises(errors.UserError, match="not a network of this program"):
    load_run(path)


@pytest.mark.parametrize(
  ("section", "field", "value", "message"),
  [
    ("model", "name", "os.system", "model.name: unknown model 'os.system'"),
    ("model", "evil", 1, "model.evil: 'simple_cnn' takes no such argument"),
    ("data", "normalize", "eval", "data.normalize: 'eval' is not one of"),
    ("data", "hook", "x", "data.hook: no such config field"),
  ],
)
def test_the_config_of_a_repository_is_checked(files, tmp_path, section, field, value, message):
  """Also if all hashes fit."""
  path = tmp_path / weights_file.NAME
  path.write_bytes(files[weights_file.NAME])
  content = weights_file.read(path)
  config = content.config | {section: content.config[section] | {field: value}}
  path.write_bytes(weights_file.serialize(content._replace(config=config)))
  with pytest.raises(errors.UserError) as error:
    load_run(path)
  assert str(error.value).startswith(message)


def test_the_card_holds_the_figures(workdir, files):
  results = json.loads((workdir / "results.json").read_text())
  card = ModelCard(files["README.md"].decode())
  figures = {row.metric_type: row.metric_value for row in card.data.eval_results}
  assert figures["accuracy"] == results["test_accuracy"]
  assert figures["loss"] == results["test_loss"]
  assert card.data.license is None and card.data.library_name == "cifar-jax"
  interval = stats.binomtest(round(results["test_accuracy"] * 360), 360).proportion_ci(
    method="wilson"
  )
  shown = (
    f"{results['test_accuracy']:.2%} | {interval.low:.2%} to {interval.high:.2%}, 95 % interval"
  )
  assert shown in card.text
  assert "selected on validation images" in card.text
  assert files["learning_curves.png"].startswith(b"\x89PNG")
  licensed = push.collect_files(workdir, ADDRESS, licence="apache-2.0")["README.md"].decode()
  assert ModelCard(licensed).data.license == "apache-2.0"
  assert test_uses.count(workdir) > 0
  assert f"- {test_uses.describe(test_uses.count(workdir)).capitalize()}, by training" in licensed


def test_the_card_of_several_seeds_says_which_is_shared(workdir):
  record = run_record.read_record(workdir)
  seeds = [{"seed": seed, "best_epoch": 1, "test_accuracy": 0.5 + seed / 10} for seed in (3, 4)]
  record.results.update(seeds=[3, 4], per_seed=seeds, test_accuracy_standard_error=0.05)
  text = model_card.write_card(record, ADDRESS, seed=4)
  assert "± 5.00%, standard error of the mean of 2 seeds" in text
  assert "that of seed 4, which has a test accuracy of 90.00%" in text


def test_the_card_of_a_fork_names_its_parent_without_a_path(workdir, tmp_path):
  for name in ("config.json", "dataset.json", "metrics.jsonl", "results.json"):
    (tmp_path / name).write_bytes((workdir / name).read_bytes())
  lineage = [{"run": "/home/me/parent", "step": 30}]
  (tmp_path / "lineage.json").write_text(json.dumps({"lineage": lineage}))
  text = model_card.write_card(run_record.read_record(tmp_path), ADDRESS, seed=0)
  assert "- starts from: step 30 of the run parent\n" in text and "/home/me" not in text


def test_texts_from_files_cannot_break_the_card(workdir):
  record = run_record.read_record(workdir)
  record.dataset["class_names"][0] = "a|b\n<script>*x*"
  text = model_card.write_card(record, ADDRESS, seed=0)
  assert r"a\|b\\n\<script\>\*x\*" in text


def test_paths_of_this_machine_stay_here():
  config = {
    "data": {"dir": "/home/me", "source": "/data/x"},
    "model": {"pretrained": "/home/me/run/"},
  }
  shared = shared_run.portable_config(config)
  assert shared == {"data": {"dir": "", "source": ""}, "model": {"pretrained": "run"}}
  assert config["data"]["dir"] == "/home/me"


def test_an_unfinished_run_is_not_pushed(workdir, tmp_path):
  for name in ("config.json", "dataset.json", "metrics.jsonl", "checkpoints"):
    (tmp_path / name).symlink_to(workdir / name)
  with pytest.raises(errors.UserError, match=r"is unfinished \(2 of 2 epochs\)"):
    push.push(tmp_path, ADDRESS)


def test_a_hub_that_refuses_is_reported(workdir, hub):
  hub.commits = None  # every request fails
  with pytest.raises(
    errors.UserError, match=r"hf://someone/small-run: cannot be written \(.+HF_TOKEN"
  ):
    push.push(workdir, ADDRESS)
