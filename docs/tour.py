# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---
# %% [markdown]
# # A tour
#
# This notebook trains a network on CIFAR-10, shows its predictions and the evidence for them, and
# compares two experiments. It takes about five minutes on two CPU cores with bfloat16 units if
# CIFAR-10 is already prepared (`--mode=prepare`). Each step also has a command, named next to it.

# %%
import os
import pathlib
import sys
import tempfile

here = pathlib.Path.cwd()
root = next(folder for folder in (here, *here.parents) if (folder / "main.py").exists())
sys.path.insert(0, str(root))  # only the package cifar_jax is installed

import numpy as np
from IPython.display import Image

from cifar_jax.runtime import console
from configs import quickstart

console.show_log()
workdir = pathlib.Path(tempfile.mkdtemp(prefix="tour_"))

# %% [markdown]
# ## An experiment is a config
#
# A file in `configs/` returns all fields of an experiment. The one used here is the quick start's,
# with fewer epochs. [Every field](reference/configuration.md) has a default and an explanation.

# %%
config = quickstart.get_config()
config.num_epochs = 4
if os.environ.get("TOUR_QUICK"):  # in seconds, to check this page
  config.data.name, config.data.fallback = "digits", ""
  config.model.widths, config.batch_size, config.num_epochs = (8, 16, 16), 128, 2
  config.data.validation = 200
print(f"{config.model.name}{config.model.widths} on {config.data.name}, {config.num_epochs} epochs")
print(f"{config.optimizer.name} with {config.schedule.name}, images: {config.augment}")

# %% [markdown]
# ## The data
#
# `python main.py --mode=dataset --config=configs/quickstart.py`

# %%
from analysis.visualize import dataset_picture

Image(filename=str(dataset_picture.draw_dataset(config, workdir / "dataset.png")), width=640)

# %% [markdown]
# ## Train
#
# `python main.py --config=configs/quickstart.py --workdir=/tmp/run`
#
# Training writes the config, a line of metrics for each epoch, checkpoints, curves and results to
# the run folder. If it is stopped, the same call resumes it.

# %%
import train
from cifar_jax.runs import results

metrics = train.train_and_evaluate(config, str(workdir / "flips"), heartbeat=0)
print(results.summarize(metrics))

# %%
Image(filename=str(workdir / "flips" / "plots" / "learning_curves.png"), width=720)

# %% [markdown]
# ## Predict
#
# `python main.py --mode=predict --workdir=/tmp/run photo.jpg` does the same for image files.

# %%
from analysis import load_run

run = load_run(workdir / "flips")
dataset, splits = run.load_data()
images = dataset.test.images[:8]
probabilities = run.predict(images)
for label, row in zip(dataset.test.labels[:8], probabilities, strict=True):
  guess = int(np.argmax(row))
  print(f"{run.class_names[label]:>10}   predicted: {run.class_names[guess]:<10} {row[guess]:.0%}")

# %% [markdown]
# ## Look inside
#
# `python main.py --mode=visualize --workdir=/tmp/run`
#
# Grad-CAM shows where the evidence for the predicted class lies; `features.png` shows how far the
# last features separate the classes.

# %%
from analysis.visualize import visualize

pictures = {path.name: path for path in visualize.visualize(workdir / "flips")}
Image(filename=str(pictures["grad_cam.png"]), width=720)

# %%
Image(filename=str(pictures["features.png"]), width=720)

# %% [markdown]
# ## Change one thing
#
# The second experiment has no augmentation. Both runs have the same seed, so they begin with the
# same weights and see the images in the same order.

# %%
config.augment = ""
print(results.summarize(train.train_and_evaluate(config, str(workdir / "no_flips"), heartbeat=0)))

# %% [markdown]
# ## Is the difference real?
#
# `python main.py --mode=compare /tmp/run /tmp/other`
#
# With one seed each, the comparison counts the validation images that only one of the two networks
# classifies correctly, and computes how likely such counts are if both are equally good. Several
# seeds allow stronger conclusions: see [how far results can be trusted](trust.md).

# %%
from trust import compare

folders = [str(workdir / "no_flips"), str(workdir / "flips")]
print(compare.compare(folders, output=workdir / "compare.html")["text"])

# %% [markdown]
# ## Next
#
# - [Train a network](training.md): resuming, several seeds, sweeps.
# - [An experiment of your own](own_experiment.md): a model, a schedule, an augmentation, a dataset.
# - [The five reports](reports.md), figure by figure.
