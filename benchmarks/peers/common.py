"""Shared by the peers' programs: the command line, and the requests that they answer.

A peer imports nothing from this project, so that it runs under any Python that has its library:

  python benchmarks/peers/torch_train.py --model=resnet18 --batch=128

prints one line of JSON with the seconds per step of several blocks of steps on one constant batch.
With --serve it prints a line that describes it. It then answers each line of JSON on standard
input, {"input": kind, "steps": n}, with seconds and steps; n = 0 stands for an epoch. The kind is
"constant", "plain" or "augmented" for training, or "predict".
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

MODELS = ("simple_cnn", "resnet18", "pointwise_resnet", "wrn28_10", "airbench94")
# Numbers of (trainable parameters, moving statistics) for 10 classes. Each peer asserts the numbers
# of its network, and tests/benchmarks/test_benchmarks.py those of ours.
PARAMETERS = {
  "simple_cnn": (846_634, 896),
  "resnet18": (11_173_962, 9_600),
  "pointwise_resnet": (10_476_106, 13_568),
  "airbench94": (1_971_640, 2_304),
  "wrn28_10": (36_479_194, 17_952),
}
CLASSES = 10
LEARNING_RATE = 1e-4  # hardly changes the weights
MOMENTUM = 0.9


def parse(doc: str) -> argparse.Namespace:
  """Parse the command line; --help prints the first line of `doc`, the program's docstring."""
  parser = argparse.ArgumentParser(description=doc.splitlines()[0])
  parser.add_argument("--model", required=True, choices=MODELS)
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
  parser.add_argument("--threads", type=int, default=0, help="0: the library's default")
  parser.add_argument("--examples", type=int, default=50_000, help="in an epoch")
  parser.add_argument("--inputs", default="constant", help="kinds of input to warm up")
  parser.add_argument("--serve", action="store_true", help="answer requests")
  parser.add_argument("--blocks", type=int, default=5, help="number of blocks, without --serve")
  parser.add_argument("--steps", type=int, default=20, help="steps in a block, without --serve")
  return parser.parse_args()


def check_parameters(model: str, trainable: int, moving: int) -> None:
  """Raise AssertionError unless the network has as many parameters as ours."""
  if (trainable, moving) != PARAMETERS[model]:
    raise AssertionError(f"{model}: {trainable} + {moving} parameters, not {PARAMETERS[model]}")


def serve(
  options: argparse.Namespace,
  run: Callable[[str, int], int],
  versions: dict[str, str],
  device: dict[str, Any],
) -> None:
  """Warm up, and measure as the command line says.

  Args:
    run: takes a number of steps on a kind of input, waits until they are done, and returns their
      number.
    versions: the versions of the libraries.
    device: a description of the device.
  """

  def timed(kind: str, steps: int) -> tuple[float, int]:
    start = time.perf_counter()
    done = run(kind, steps)
    return time.perf_counter() - start, done

  kinds = options.inputs.split(",")
  start = time.perf_counter()
  run(kinds[0], 1)
  first_step_at, first_step = time.time(), time.perf_counter() - start
  for kind in kinds:
    run(kind, 3)
  description = {
    "parameters": PARAMETERS[options.model],
    "batch": options.batch,
    "dtype": options.dtype,
    "versions": {"python": platform.python_version(), **versions},
    "device": device,
    "first_step_at": first_step_at,  # in seconds since 1970
    "seconds_to_first_step": first_step,
    "seconds_to_warm_up": time.perf_counter() - start,
  }
  if not options.serve:
    blocks = [timed(kinds[0], options.steps) for _ in range(options.blocks)]
    description["seconds_per_step"] = [seconds / done for seconds, done in blocks]
    print(json.dumps(description), flush=True)
    return
  print(json.dumps(description), flush=True)
  for line in sys.stdin:
    request = json.loads(line)
    seconds, done = timed(request["input"], request["steps"])
    print(json.dumps({"seconds": seconds, "steps": done}), flush=True)
