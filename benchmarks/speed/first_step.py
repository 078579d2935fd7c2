"""main.py, ended after its first training step with the times in a line of JSON; for startup.py."""

import json
import os
import sys
import time
from typing import Any

import main
from cifar_jax.runtime import startup


def run() -> None:
  import jax

  from cifar_jax.training import compiled_steps

  train = compiled_steps.CompiledSteps.train

  def first_step(*arguments: Any) -> None:
    result = train(*arguments)  # returns when the step is compiled and begins
    begun = time.time()
    jax.block_until_ready(result)
    print(json.dumps({"begun_at": begun, "first_step_at": time.time()}), flush=True)
    os._exit(0)  # nothing of the rest of a run is to be waited for

  compiled_steps.CompiledSteps.train = first_step
  main.run()


if __name__ == "__main__":
  startup.restart_if_needed(sys.argv)  # as main.py does
  run()
