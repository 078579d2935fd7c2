"""Other test sets: small files in the layouts of CIFAR-10-C and CIFAR-10.1, and wrong ones."""

import json
import pathlib
import types

import ml_collections
import numpy as np
import pytest
from PIL import Image

import modes
from analysis.evaluate import corruptions, evaluate_test_set, test_sets
from analysis.report import report
from analysis.run import load_run
from cifar_jax import errors
from cifar_jax.data import datasets
from cifar_jax.runs import test_uses


def network(data_dir, shape=(8, 8, 3), classes=("cat", "dog", "cow")):
  """Return what test_sets needs to know of a run."""
  config = ml_collections.ConfigDict({"data": {"dir": str(data_dir), "options": {}}})
  description = {"name": "cifar10", "class_names": list(classes)}
  return types.SimpleNamespace(
    name="net", image_shape=shape, class_names=list(classes), config=config, description=description
  )


def arrays(n, shape=(8, 8, 3), classes=3, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, 256, (n, *shape)).astype(np.uint8), random.integers(0, classes, n)


def write_corrupted(folder: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> None:
  """Write CIFAR-10-C's layout: for each corruption five severities, and the labels five times."""
  folder.mkdir()
  for name in ("fog", "saturate"):
    blocks = [images // severity for severity in corruptions.SEVERITIES]
    np.save(folder / f"{name}.npy", np.concatenate(blocks))
  np.save(folder / "labels.npy", np.tile(labels, 5))


def test_cifar_10_c_is_read_by_corruption_and_severity(tmp_path):
  images, labels = arrays(4)
  write_corrupted(tmp_path / "CIFAR-10-C", images, labels)
  test_set = test_sets.open_test_set(network(tmp_path), "CIFAR-10-C")  # in the data directory
  parts = list(test_set.parts())
  assert (test_set.name, test_set.counts_as, test_set.num_parts) == ("CIFAR-10-C", "test", 10)
  assert [(part.corruption, part.severity) for part in parts] == [
    (name, severity) for name in ("fog", "saturate") for severity in (1, 2, 3, 4, 5)
  ]
  for part in parts:
    np.testing.assert_array_equal(part.images, images // part.severity)
    np.testing.assert_array_equal(part.labels, labels)


def test_cifar_10_1_is_read_in_each_way_of_naming_it(tmp_path):
  images, labels = arrays(5)
  folder = tmp_path / "cifar10.1"
  folder.mkdir()
  np.save(folder / "cifar10.1_v6_data.npy", images)
  np.save(folder / "cifar10.1_v6_labels.npy", labels)
  file = f"{folder}/cifar10.1_v6_data.npy"
  pair = f"{file},{folder}/cifar10.1_v6_labels.npy"
  for description in ("cifar10.1", str(folder), file, pair):
    test_set = test_sets.open_test_set(network(tmp_path), description)
    (part,) = test_set.parts()
    assert test_set.name.startswith("cifar10.1_v6") and test_set.counts_as == test_set.name
    np.testing.assert_array_equal(part.images, images)
    np.testing.assert_array_equal(part.labels, labels)
  np.save(folder / "cifar10.1_v4_data.npy", images)
  with pytest.raises(errors.UserError, match=r"holds cifar10\.1_v4_data\.npy, cifar"):
    test_sets.open_test_set(network(tmp_path), "cifar10.1")


def test_grey_arrays_may_lack_the_axis_of_channels(tmp_path):
  images, labels = arrays(3, (8, 8))
  np.save(tmp_path / "images.npy", images)
  np.save(tmp_path / "labels.npy", labels)
  run = network(tmp_path, shape=(8, 8, 1))
  (part,) = test_sets.open_test_set(run, str(tmp_path / "images.npy")).parts()
  assert part.images.shape == (3, 8, 8, 1)


def test_folders_of_image_files_are_decoded(tmp_path, log_lines):
  for name, colour in (("dog", (1, 2, 3)), ("cat", (9, 8, 7))):
    (tmp_path / "photos" / name).mkdir(parents=True)
    Image.new("RGB", (8, 8), colour).save(tmp_path / "photos" / name / "a.png")
  (tmp_path / "photos" / "dog" / "b.png").write_bytes(b"no image")
  test_set = test_sets.open_test_set(network(tmp_path), str(tmp_path / "photos"))
  (part,) = test_set.parts()
  assert part.images[:, 0, 0].tolist() == [[9, 8, 7], [1, 2, 3]]
  assert part.labels.tolist() == [0, 1]
  assert "left out 1 files that cannot be read, such as dog/b.png (not an image)" in log_lines
  (tmp_path / "photos" / "horse").mkdir()
  with pytest.raises(errors.UserError, match="folders are cat, dog, horse, but the classes of net"):
    test_sets.open_test_set(network(tmp_path), str(tmp_path / "photos"))


@pytest.mark.parametrize(
  ("images", "labels", "message"),
  [
    (arrays(4)[0].astype(np.float32), arrays(4)[1], "float32 of shape (4, 8, 8, 3); net takes"),
    (arrays(4, (9, 8, 3))[0], arrays(4)[1], "net takes uint8 of shape (n, 8, 8, 3)"),
    (arrays(4)[0], arrays(3)[1], "has 4 images, but there are 3 labels"),
    (arrays(4)[0], np.array([0, 1, 2, 3]), "labels from 0 to 3, but net knows the classes 0 to 2"),
    (arrays(4)[0], np.array([0.0] * 4), "labels are whole numbers"),
    (arrays(0)[0], arrays(0)[1], "uint8 of shape (0, 8, 8, 3)"),
    (np.array([{}], object), arrays(1)[1], "not a .npy array (ValueError: "),
    (b"\x93NUMPY\x01\x00v\x00{'descr': ", arrays(1)[1], "not a .npy array"),
  ],
)
def test_wrong_arrays_are_refused_in_one_line(tmp_path, images, labels, message):
  for name, array in (("x_data.npy", images), ("x_labels.npy", labels)):
    if isinstance(array, bytes):
      (tmp_path / name).write_bytes(array)
    else:
      np.save(tmp_path / name, array, allow_pickle=True)
  with pytest.raises(errors.UserError) as raised:
    test_sets.open_test_set(network(tmp_path), str(tmp_path / "x_data.npy"))
  assert message in str(raised.value) and "\n" not in str(raised.value)


def test_wrong_names_and_layouts_are_refused_in_one_line(tmp_path):
  run = network(tmp_path)
  images, labels = arrays(10)
  write_corrupted(tmp_path / "shuffled", images, labels)
  np.save(tmp_path / "shuffled" / "labels.npy", arrays(50)[1])
  for name, files in {"empty": (), "alone": ("fog",), "no_pair": ("x_data",)}.items():
    (tmp_path / name).mkdir()
    for file in files:
      np.save(tmp_path / name / f"{file}.npy", images)
  np.save(tmp_path / "odd.npy", images)
  for description, message in {
    "nowhere": "nowhere: no such file or folder, here or in",
    "x" * 5000: "no such file or folder",
    "a\0b": "no such file or folder",
    "a.npy,b.npy": "a.npy: cannot be read (No such file or directory)",
    "shuffled": "does not repeat the same labels five times",
    "empty": "its folders are none",
    "alone": "holds neither labels.npy nor a file that ends in _data.npy",
    "no_pair": "x_labels.npy: cannot be read",
    "odd.npy": "has neither 'data' nor 'images' in its name",
  }.items():
    with pytest.raises(errors.UserError) as raised:
      test_sets.open_test_set(run, description)
    assert message in str(raised.value), description


# --- The mode ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_compilation")
def test_a_run_is_evaluated_on_corrupted_test_images(workdir, monkeypatch):
  kept = ("gaussian_noise", "saturate", "contrast")
  chosen = {name: corruptions.CORRUPTIONS[name] for name in kept}
  monkeypatch.setattr(corruptions, "CORRUPTIONS", chosen)
  uses = test_uses.count(workdir)
  content = evaluate_test_set.evaluate_test_set(workdir, "corruptions")
  results = json.loads((workdir / "results.json").read_text())
  clean, *corrupted = content["parts"]
  assert clean["corruption"] == "none"
  assert clean["accuracy"] == pytest.approx(results["test_accuracy"])
  assert clean["loss"] == pytest.approx(results["test_loss"], rel=1e-4)
  counted = [part for part in corrupted if part["corruption"] != "saturate"]
  assert content["counted_corruptions"] == ["gaussian_noise", "contrast"]
  error = 1 - np.mean([part["accuracy"] for part in counted])
  assert content["mean_corruption_error"] == pytest.approx(error)
  run = load_run(workdir)
  test = run.load_data()[0].test
  noisy = corruptions.corrupt("gaussian_noise", 5, np.asarray(test.images))
  accuracy = np.mean(run.predict(noisy).argmax(1) == test.labels)
  assert corrupted[4]["accuracy"] == pytest.approx(accuracy)
  assert test_uses.count(workdir) == content["test_uses"] == uses + 1
  lines = content["text"].splitlines()
  assert lines[2].split()[-5:] == ["4", "5", "mean", "calibration", "error"]
  assert lines[5].split()[:2] == ["saturate*", f"{corrupted[5]['accuracy']:.1%}"]
  assert f"mean corruption error {error:.2%}, over 2 of the benchmark's 15" in content["text"]
  file = workdir / "evaluation" / "test_set_corruptions.json"
  assert lines[-1] == f"wrote {file}"
  assert json.loads(file.read_text())["parts"] == content["parts"]
  page = report.write_report(workdir).read_text()
  assert "Other test sets" in page and f"Mean corruption error {error:.2%}" in page
  file.unlink()


@pytest.mark.usefixtures("quick_compilation")
def test_other_images_have_a_count_of_their_own(workdir, tmp_path, capsys):
  test = load_run(workdir).load_data()[0].test
  np.save(tmp_path / "new data_v1.npy", test.images[:50])
  np.save(tmp_path / "new labels_v1.npy", test.labels[:50])
  uses = test_uses.count(workdir)
  options = {"test_set": str(tmp_path / "new data_v1.npy"), "seed": None, "tta": "flip"}
  modes.MODES["evaluate"].run(modes.Call(None, [str(workdir)], [], options))
  printed = capsys.readouterr().out
  content = json.loads((workdir / "evaluation" / "test_set_new_.json").read_text())
  assert test_uses.count(workdir) == uses and test_uses.count(workdir, "new ") == 1
  accuracy = content["accuracy"]
  assert f"accuracy {accuracy:.2%}" in printed and "(50 images, used once)" in printed
  assert "test-time augmentation flip" in printed
  (workdir / "evaluation" / "test_set_new_.json").unlink()


def test_the_data_directory_is_found_as_for_datasets(monkeypatch, tmp_path):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  assert str(datasets.find_data_dir()) == str(tmp_path.resolve())
