"""Access to the outputs of a network's modules while it is called."""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn


@contextlib.contextmanager
def intercept_outputs(visit: Callable[[int, nn.Module, Any], Any]) -> Iterator[None]:
  """Replace the output of each module's call by `visit(number, module, output)`.

  `number` counts the module calls that returned before this one.
  """
  numbers = itertools.count()

  def intercept(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    output = call(*args, **kwargs)
    if context.method_name != "__call__":
      return output
    return visit(next(numbers), context.module, output)

  with nn.intercept_methods(intercept):
    yield
