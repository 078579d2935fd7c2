"""The model card of a shared run: README.md on the Hugging Face hub, written from results.json."""

import json
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from analysis.report.figures import select_figures
from analysis.run_record import RunRecord
from cifar_jax import errors
from cifar_jax.runs import run_folder, test_uses, weights_file

# The hub's names of the datasets that it hosts.
_HUB_DATASETS = {
  "cifar10": "uoft-cs/cifar10",
  "cifar100": "uoft-cs/cifar100",
  "mnist": "ylecun/mnist",
  "fashion_mnist": "zalando-datasets/fashion_mnist",
}
_SELECTION = {
  "validation": "on validation images, which were held out of the training images",
  "test": "on the test images themselves, so the test figures are optimistic",
  "training": "by training metrics; neither validation nor test images decided anything",
  "nothing": "by nothing: they are those of the last epoch",
}


def write_card(run: RunRecord, address: str, seed: int, licence: str = "") -> str:
  """Return the model card of a finished run.

  Args:
    address: hf://owner/name.
    seed: the seed whose weights are shared.
    licence: the hub's identifier of a licence, such as 'apache-2.0'; '' for none.
  """
  results, name = run.results, address.split("/")[-1]
  lines = [
    "---",
    _front_matter(run, name, licence),
    "---",
    "",
    f"# {_plain(run.title)}",
    "",
    f"An image classifier for {_list_classes(run.class_names)}, trained with "
    f"[JAX](https://docs.jax.dev) and [Flax](https://flax.readthedocs.io): "
    f"{results['parameters']['total']:,} parameters, images of {_describe_shape(run)}.",
    "",
    "## Results",
    "",
    *_make_table(run),
    "",
    *_list_notes(run, seed),
    "",
    "![Learning curves](learning_curves.png)",
    "",
    "## Use",
    "",
    "In a checkout of the program that trained it:",
    "",
    "```python",
    "from analysis import load_run",
    "",
    f'run = load_run("{address}")',
    "probabilities = run.predict(images)  # uint8 [n, height, width, channels]",
    "```",
    "",
    f"or `python main.py --mode=predict --workdir={address} photo.jpg`. Nothing in this repository "
    "is run as a program: `weights.safetensors` holds the arrays by path, and its metadata the "
    f"config, the classes and the normalisation ({_describe_normalization(run)}).",
    "",
    "The network knows only its classes, and assigns one of them to any image.",
    "",
    "## Training",
    "",
    *_list_training(run),
  ]
  return "\n".join(lines) + "\n"


def _front_matter(run: RunRecord, name: str, licence: str) -> str:
  """Return the metadata that the hub reads, as YAML whose values are written as JSON."""
  results = run.results
  metrics = [
    {"type": "accuracy", "name": "test accuracy", "value": results["test_accuracy"]},
    {"type": "loss", "name": "test cross-entropy", "value": results["test_loss"]},
  ]
  if run.has_top5:
    top5 = {"type": "top5_accuracy", "name": "test top-5 accuracy", "value": results["test_top5"]}
    metrics.insert(1, top5)
  hub_dataset = _HUB_DATASETS.get(run.dataset_name)
  fields: dict[str, Any] = {"library_name": "cifar-jax"}
  if licence:
    fields["license"] = licence
  fields["pipeline_tag"] = "image-classification"
  fields["tags"] = [
    "image-classification",
    "jax",
    "flax",
    "safetensors",
    run.config["model"]["name"],
  ]
  if hub_dataset:
    fields["datasets"] = [hub_dataset]
  dataset = {"name": run.dataset_name, "type": hub_dataset or run.dataset_name, "split": "test"}
  fields["metrics"] = ["accuracy"]
  fields["model-index"] = [
    {
      "name": name,
      "results": [
        {
          "task": {"type": "image-classification", "name": "Image classification"},
          "dataset": dataset,
          "metrics": metrics,
        }
      ],
    }
  ]
  return "\n".join(f"{key}: {json.dumps(value)}" for key, value in fields.items())


def _make_table(run: RunRecord) -> list[str]:
  """Return the figures as a table, each with its uncertainty if that is known."""
  rows = ["| figure | value | uncertainty | images |", "| --- | --- | --- | --- |"]
  counts = {"test": "test_examples", "val": "validation_examples"}
  for metric, figure in select_figures([run]).items():
    count = run.dataset.get(counts[metric.split("_")[0]])
    spread = _describe_spread(run, metric, figure.style, count)
    value = format(run.results[metric], figure.style)
    rows.append(f"| {figure.title} | {value} | {spread} | {f'{count:,}' if count else ''} |")
  return rows


def _describe_spread(run: RunRecord, metric: str, style: str, count: int | None) -> str:
  """Return the standard error over seeds, or the confidence interval for the number of images."""
  num_seeds = len(run.seed_results)
  if (error := run.results.get(f"{metric}_standard_error")) is not None:
    return f"± {error:{style}}, standard error of the mean of {num_seeds} seeds"
  if count and metric.endswith(("accuracy", "top5")):
    low, high = wilson_interval(run.results[metric], count)
    return f"{low:.2%} to {high:.2%}, 95 % interval for the number of images"
  return ""


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
  """Return Wilson's confidence interval (1927) for a share of `count` images; z is for 95 %."""
  centre = (share + z * z / (2 * count)) / (1 + z * z / count)
  root = math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
  half_width = z / (1 + z * z / count) * root
  return centre - half_width, centre + half_width


def _list_notes(run: RunRecord, seed: int) -> list[str]:
  results = run.results
  notes = [f"The weights were selected {_SELECTION[run.selected_on]}."]
  images = test_uses.describe(test_uses.count(run.path)).capitalize()
  notes.append(f"{images}, by training and later evaluations of this run.")
  if len(results["seeds"]) > 1:
    (row,) = [row for row in results["per_seed"] if row["seed"] == seed]
    accuracy = row["test_accuracy"]
    shown = "diverged" if accuracy is None else f"has a test accuracy of {accuracy:.2%}"
    notes.append(
      f"The figures are means over the seeds {_join(results['seeds'])}; the network in this "
      f"repository is that of seed {seed}, which {shown}."
    )
  if diverged := results.get("diverged_seeds"):
    notes.append(f"Diverged, and left out of the figures: seed {_join(diverged)}.")
  if run.fell_back:
    requested = _plain(run.dataset["requested"])
    notes.append(f"**Trained on {_plain(run.dataset_name)}**, because {requested} was unavailable.")
  return [f"- {note}" for note in notes]


def _list_training(run: RunRecord) -> list[str]:
  config, results = run.config, run.results
  counts = [
    f"{run.dataset[f'{split}_examples']:,} {split}"
    for split in ("train", "validation", "test")
    if run.dataset.get(f"{split}_examples")
  ]
  versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
  facts = {
    "images": ", ".join(counts),
    "epochs": f"{results['epochs_run']} of {config['num_epochs']}",
    "batch size": config["batch_size"],
    "optimizer": f"{config['optimizer']['name']}, learning rate "
    f"{config['optimizer']['learning_rate']}, schedule {config['schedule']['name']}",
    "augmentation": config["augment"] or "none",
    "starts from": _describe_start(run),
    "type": results["dtype"],
    "device": run.device,
    "seconds": f"{run.seconds:,.0f}" if run.seconds else None,
    "commit": results["git_commit"],
    "versions": versions,
    "fingerprint of the data": run.dataset.get("fingerprint"),
  }
  return [f"- {name}: {_plain(value)}" for name, value in facts.items() if value is not None] + [
    "",
    "`config.json` has every field, `metrics.jsonl` every epoch, `results.json` every figure.",
  ]


def _describe_start(run: RunRecord) -> str:
  """Return the weights that training began with, without this machine's paths."""
  if lineage := run_folder.RunFolder(run.path, writer=False).lineage():
    return f"step {lineage[-1]['step']} of the run {os.path.basename(lineage[-1]['run'])}"
  return run.config["model"].get("pretrained") or "random weights"


def _list_classes(names: Sequence[str]) -> str:
  shown = ", ".join(_plain(name) for name in names[:10])
  return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more classes"


def _describe_shape(run: RunRecord) -> str:
  height, width, channels = run.dataset["image_shape"]
  return f"{height}×{width} pixels in {channels} channel{'s' * (channels != 1)}"


def _describe_normalization(run: RunRecord) -> str:
  mean, std = weights_file.effective_moments(run.config, run.dataset)
  means, deviations = (_join(f"{value:.4g}" for value in values) for values in (mean, std))
  return f"pixels / 255, minus {means}, divided by {deviations}"


def _join(values: Any) -> str:
  return ", ".join(map(str, values))


def _plain(text: object) -> str:
  """Return a text in one line that Markdown and HTML leave unchanged."""
  return re.sub(r"([\\`*_{}\[\]<>#|&~])", r"\\\1", errors.printable(text))
