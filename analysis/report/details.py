"""The sections of a run's page about timings, environment and config."""

import statistics

from analysis.report import page
from analysis.report.page import Html, duration_cell, tag, text_cell
from analysis.run_record import RunRecord
from cifar_jax.config import as_json, changed_fields, flatten


def make_timings(run: RunRecord) -> list[Html]:
  """Return the times of training, of compiling and of an epoch."""
  seconds, speeds = run.finite_values("seconds"), run.finite_values("images_per_second")
  epochs, epoch_times = run.progress, None
  if run.results and len(run.rows) < run.config["num_epochs"]:
    epochs += ", stopped early"
  if seconds:
    median, shortest, longest = (
      duration_cell(f(seconds)).content for f in (statistics.median, min, max)
    )
    epoch_times = f"{median} (median; from {shortest} to {longest})"
  compiling = run.results.get("compile_seconds")
  training = duration_cell(run.seconds).content
  return [
    page.facts(
      [
        ("Training", f"{training}, including validation but not compiling"),
        ("Compiling", None if compiling is None else duration_cell(compiling).content),
        ("Epochs", epochs),
        ("Per epoch", epoch_times),
        ("Images per second", f"{statistics.median(speeds):,.0f} (median)" if speeds else None),
        ("Finished", page.format_time(run.results.get("finished")) or "not yet"),
      ]
    )
  ]


def make_environment(run: RunRecord) -> list[Html]:
  """Return the hardware, the versions and the dataset of a run."""
  results, dataset = run.results, run.dataset
  device, commit = results.get("device", {}), results.get("git_commit")
  hardware = None
  if device:
    processes = f"{device['processes']} process{'es' if device['processes'] > 1 else ''}"
    hardware = f"{run.device}, {processes}, {device['cpu_cores']} CPU cores"
  versions = [f"{name} {version}" for name, version in results.get("versions", {}).items()]
  data = run.dataset_name
  if "image_shape" in dataset:
    shape = " × ".join(map(str, dataset["image_shape"]))
    data += f", {len(run.class_names)} classes, images of {shape}"
  return [
    page.facts(
      [
        ("Device", hardware),
        ("Versions", ", ".join(versions) or None),
        ("Code", tag("code", commit) if commit else None),
        ("Data", data),
        ("Fingerprint", tag("code", dataset["fingerprint"]) if dataset else None),
        ("Other facts", None if results else "are recorded when the run finishes"),
      ]
    )
  ]


def make_config(run: RunRecord) -> list[Html]:
  """Return the fields that differ from their defaults, and all fields."""
  from configs import default

  defaults = flatten(as_json(default.get_config()))
  fields = flatten(run.config)
  changed = [
    [
      page.code_cell(name),
      page.value_cell(value),
      page.value_cell(defaults[name]) if name in defaults else text_cell(None),
    ]
    for name, value in changed_fields(fields, defaults).items()
  ]
  rows = [[page.code_cell(name), page.value_cell(value)] for name, value in fields.items()]
  note = ["Fields that differ from the current ", tag("code", "configs/default.py"), "."]
  return [
    tag("p", note, class_="soft"),
    page.table(["field", "value", "default"], changed),
    tag("details", tag("summary", "All fields"), page.table(["field", "value"], rows)),
  ]
