"""What the peers' programs share: their command line, and how they answer.

A peer is a program of its own that imports nothing of this project, so that it runs under any
Python that has its library:

  python benchmarks/peers/torch_train.py --model=resnet18 --batch=128

prints one line of JSON with the seconds of several blocks of steps on one constant batch. With
--serve it prints a line that describes it, and then answers each line of JSON on standard input,
{"input": "constant" or "plain" or "augmented", "steps": n}; 0 steps are an epoch.
"""

import argparse
import json
import platform
import sys
import time

MODELS = ("simple_cnn", "resnet18", "pointwise_resnet", "wrn28_10")
# (trainable, moving statistics) for 10 classes. Asserted by each peer of its own network, and by
# tests/test_benchmarks.py of ours.
PARAMETERS = {
  "simple_cnn": (846_634, 896),
  "resnet18": (11_173_962, 9_600),
  "pointwise_resnet": (10_476_106, 13_568),
  "wrn28_10": (36_479_194, 17_952),
}
CLASSES = 10
LEARNING_RATE = 1e-4  # so small that the numbers stay as they are
MOMENTUM = 0.9


def parse(doc):
  parser = argparse.ArgumentParser(description=doc.splitlines()[0])
  parser.add_argument("--model", required=True, choices=MODELS)
  parser.add_argument("--batch", type=int, default=128)
  parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
  parser.add_argument("--threads", type=int, default=0, help="0: as the library chooses")
  parser.add_argument("--examples", type=int, default=50_000, help="in an epoch")
  parser.add_argument("--inputs", default="constant", help="to warm up, separated by commas")
  parser.add_argument("--serve", action="store_true")
  parser.add_argument("--blocks", type=int, default=5, help="without --serve")
  parser.add_argument("--steps", type=int, default=20, help="in a block, without --serve")
  return parser.parse_args()


def check_parameters(model, trainable, moving):
  if (trainable, moving) != PARAMETERS[model]:
    raise AssertionError(f"{model}: {trainable} + {moving} parameters, not {PARAMETERS[model]}")


def serve(options, run, versions, device):
  """Warms up, and measures as the command line says.

  run: called with (input, steps), takes the steps, waits until they are done, and returns how many
    they were.
  """

  def timed(kind, steps):
    start = time.perf_counter()
    done = run(kind, steps)
    return time.perf_counter() - start, done

  kinds = options.inputs.split(",")
  start = time.perf_counter()
  run(kinds[0], 1)
  first_step_at, first_step = time.time(), time.perf_counter() - start
  for kind in kinds:
    run(kind, 3)
  found = {
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
    found["seconds_per_step"] = [seconds / done for seconds, done in blocks]
    print(json.dumps(found), flush=True)
    return
  print(json.dumps(found), flush=True)
  for line in sys.stdin:
    request = json.loads(line)
    seconds, done = timed(request["input"], request["steps"])
    print(json.dumps({"seconds": seconds, "steps": done}), flush=True)
