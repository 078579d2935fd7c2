"""PyTorch's side of a speed benchmark: plain training, channels-last.

On a GPU, or with the variable TORCH_COMPILE, the model is compiled (torch.compile);
--dtype=bfloat16 runs it under autocast. The optimizer is torch.optim.SGD with Nesterov momentum.

The images are on the device as bytes. Whole batches are shuffled, cropped, flipped and normalised
there, which is faster than a DataLoader that transforms single images. The images are random,
because the time of a step does not depend on the pixels.
"""

import os

import common
import torch
import torch.nn.functional as F
import torch_models


def main():
  options = common.parse(__doc__)
  if options.threads:
    torch.set_num_threads(options.threads)
  device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
  cuda = device.type == "cuda"
  torch.backends.cudnn.benchmark = True
  torch.manual_seed(0)

  model = torch_models.create(options.model, common.CLASSES)
  parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
  moving = sum(b.numel() for name, b in model.named_buffers() if "running" in name)
  common.check_parameters(options.model, parameters, moving)
  model = model.to(device, memory_format=torch.channels_last)
  optimizer = torch.optim.SGD(
    model.parameters(),
    lr=common.LEARNING_RATE,
    momentum=common.MOMENTUM,
    nesterov=True,
    fused=cuda,
  )
  network = torch.compile(model) if cuda or os.environ.get("TORCH_COMPILE") else model
  half = options.dtype == "bfloat16"

  def step(images, labels):
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
      loss = F.cross_entropy(network(images), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()

  @torch.inference_mode()
  def predict(images):
    model.eval()
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
      network(images).float().cpu()

  images = torch.randn(options.batch, 3, 32, 32, device=device)
  images = images.to(memory_format=torch.channels_last)
  labels = torch.randint(common.CLASSES, (options.batch,), device=device)
  pipelines = {
    kind: Pipeline(options.examples, options.batch, device, augmented=kind == "augmented")
    for kind in options.inputs.split(",")
    if kind not in ("constant", "predict")
  }

  def run(kind, steps):
    steps = steps or options.examples // options.batch
    for _ in range(steps):
      if kind == "predict":
        predict(images)
      elif kind == "constant":
        step(images, labels)
      else:
        step(*next(pipelines[kind]))
    if cuda:
      torch.cuda.synchronize()
    return steps

  hardware = {
    "kind": torch.cuda.get_device_name() if cuda else "cpu",
    "threads": torch.get_num_threads(),
    "instruction_set": torch.backends.cpu.get_cpu_capability(),
  }
  common.serve(options, run, {"torch": torch.__version__}, hardware)


class Pipeline:
  """Yields batches of endless epochs: images [b, 3, 32, 32] channels-last, labels [b]."""

  def __init__(self, examples, batch, device, augmented):
    self.batch, self.augmented, self.device = batch, augmented, device
    shape = (examples, 32, 32, 3)
    self.images = torch.randint(256, shape, dtype=torch.uint8, device=device)
    self.labels = torch.randint(common.CLASSES, (examples,), device=device)
    self.mean = torch.tensor([0.4914, 0.4822, 0.4465], device=device)
    self.std = torch.tensor([0.247, 0.2435, 0.2616], device=device)
    self.batches = iter(())

  def __iter__(self):
    return self

  def __next__(self):
    chosen = next(self.batches, None)
    if chosen is None or len(chosen) < self.batch:
      order = torch.randperm(len(self.images), device=self.device)
      self.batches = iter(order.split(self.batch))
      chosen = next(self.batches)
    images = (self.images[chosen].float() / 255 - self.mean) / self.std
    if self.augmented:
      images = flip(crop(images))
    return images.permute(0, 3, 1, 2), self.labels[chosen]


def crop(images, padding=4):
  """Return a random window of each padded image, as large as the image: [b, h, w, c]."""
  count, size = images.shape[:2]
  padded = F.pad(images, (0, 0, padding, padding, padding, padding))
  offsets = torch.randint(2 * padding + 1, (2, count, 1), device=images.device)
  rows, columns = offsets + torch.arange(size, device=images.device)
  numbers = torch.arange(count, device=images.device)
  return padded[numbers[:, None, None], rows[:, :, None], columns[:, None, :]]


def flip(images):
  """Return the images [b, h, w, c] with a random half of them mirrored."""
  chosen = torch.rand(len(images), device=images.device) < 0.5
  return torch.where(chosen[:, None, None, None], images.flip(2), images)


if __name__ == "__main__":
  main()
