"""Run main.py up to the end of its first training step, and print the times; for startup.py.

The line of JSON has 'begun_at', when the compiled step begins, and 'first_step_at', when it is
done, in seconds since 1970.
"""

import json
import os
import sys
import time
from typing import Any

import main
from cifar_jax.runtime import startup


def run() -> None:
  """Run the command line; end the process after the first step."""
  import jax

  from cifar_jax.training import compiled_steps

  train = compiled_steps.CompiledSteps.train

  def take_first_step(*arguments: Any) -> None:
    outputs = train(*arguments)  # returns when the step is compiled and begins
    begun = time.time()
    jax.block_until_ready(outputs)
    print(json.dumps({"begun_at": begun, "first_step_at": time.time()}), flush=True)
    os._exit(0)  # without the exit handlers of a run

  setattr(compiled_steps.CompiledSteps, "train", take_first_step)  # noqa: B010 (a method, for mypy)
  main.run()


if __name__ == "__main__":
  startup.restart_if_needed(sys.argv)  # as main.py does
  run()
