"""Read the data in a pickle without executing it.

A pickle is a program for a stack machine, and `pickle.load` may call any function that the program
names. Here `pickletools` only splits the program into its operations, and `_Machine` executes those
that build dicts, lists, tuples, strings, bytes, whole numbers and uint8 arrays. It refuses all
others. No module is imported, and no function is called by name.
"""

import pickletools
from typing import Any

import numpy as np

# The names in pickles of NumPy arrays, with protocols 0 to 4.
_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY, _DTYPE = "numpy ndarray", "numpy dtype"
_ENCODE = "_codecs encode"  # in protocols 0 to 2, Python 3 writes bytes as an encoded string
_NAMES = (*_RECONSTRUCT, _NDARRAY, _DTYPE, _ENCODE)
# Operations that push their argument, or a constant.
_VALUES = (
  *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"),
  *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE"),
  *("BINBYTES", "SHORT_BINBYTES"),
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Refused(Exception):
  """The content is not a pickle of plain data; the message says why."""


class _Name(str):
  """A function or class that the pickle names, such as 'numpy dtype'."""


class _UnfinishedArray:
  """An array whose shape and pixels follow later in the pickle."""

  array: np.ndarray | None = None


def read(content: bytes) -> dict[str, Any]:
  """Return the dict that a pickle holds.

  Args:
    content: a pickle of a dict, written by Python 2 or 3, with a protocol of at most 4. Strings of
      Python 2 are read as Latin-1.

  Returns:
    The dict, whose keys are str. Values are dicts, lists, tuples, str, bytes, whole numbers, None
    and uint8 arrays.

  Raises:
    Refused: the pickle is damaged, holds something else, or names a function.
  """
  machine = _Machine()
  try:
    for opcode, argument, _ in pickletools.genops(content):
      machine.execute(opcode.name, argument)
    result = _finish(machine.pop())
    if not isinstance(result, dict):
      raise Refused(f"it holds a {type(result).__name__} instead of a dict")
    return {_to_text(key): _finish(value) for key, value in result.items()}
  except Refused:
    raise
  except Exception as error:  # damaged content can make any operation raise anything
    raise Refused(f"not a pickle, or damaged ({' '.join(str(error).split())})") from error


class _Machine:
  """The stack machine of a pickle: the stack, its marks and the memo."""

  def __init__(self) -> None:
    self._stack: list[Any] = []
    self._marks: list[int] = []
    self._memo: dict[int, Any] = {}

  def pop(self) -> Any:
    return self._stack.pop()

  def execute(self, operation: str, argument: Any) -> None:
    """Execute one operation, named as in pickletools; raise Refused if it is not plain data."""
    stack = self._stack
    if operation in ("PROTO", "FRAME", "STOP"):
      pass
    elif operation == "MARK":
      self._marks.append(len(stack))
    elif operation in _VALUES:
      stack.append(argument)
    elif operation in _CONSTANTS:
      stack.append(_CONSTANTS[operation])
    elif operation in ("PUT", "BINPUT", "LONG_BINPUT"):
      self._memo[argument] = stack[-1]
    elif operation == "MEMOIZE":
      self._memo[len(self._memo)] = stack[-1]
    elif operation in ("GET", "BINGET", "LONG_BINGET"):
      stack.append(self._memo[argument])
    elif operation == "GLOBAL":
      stack.append(_check_name(argument))
    elif operation == "STACK_GLOBAL":
      name, module = stack.pop(), stack.pop()
      stack.append(_check_name(f"{module} {name}"))
    elif operation == "REDUCE":
      arguments = stack.pop()
      stack.append(_construct(stack.pop(), arguments))
    elif operation == "BUILD":
      state = stack.pop()
      _set_state(stack[-1], state)
    else:
      self._collect(operation)

  def _collect(self, operation: str) -> None:
    """Build a container from the values on the stack."""
    stack = self._stack
    if operation in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
      stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[operation]())
    elif operation == "APPEND":
      value = stack.pop()
      stack[-1].append(value)
    elif operation == "APPENDS":
      values = self._pop_to_mark()
      stack[-1].extend(values)
    elif operation == "SETITEM":
      value, key = stack.pop(), stack.pop()
      stack[-1][key] = value
    elif operation == "SETITEMS":
      values = self._pop_to_mark()
      stack[-1].update(zip(values[::2], values[1::2], strict=True))
    elif operation == "DICT":
      values = self._pop_to_mark()
      stack.append(dict(zip(values[::2], values[1::2], strict=True)))
    elif operation == "LIST":
      stack.append(self._pop_to_mark())
    elif operation == "TUPLE":
      stack.append(tuple(self._pop_to_mark()))
    elif operation in _TUPLES:
      values = [stack.pop() for _ in range(_TUPLES[operation])]
      stack.append(tuple(reversed(values)))
    else:
      raise Refused(f"it holds the operation {operation}, which plain data does not need")

  def _pop_to_mark(self) -> list[Any]:
    """Remove and return the values above the last mark."""
    mark = self._marks.pop()
    values = self._stack[mark:]
    del self._stack[mark:]
    return values


def _check_name(name: str) -> _Name:
  if name not in _NAMES:
    raise Refused(f"it names {'.'.join(name.split())[:100]!r}, which is not executed")
  return _Name(name)


def _construct(name: Any, arguments: Any) -> Any:
  """Return the object that a call of `name` would create."""
  if isinstance(name, _Name):
    if name == _DTYPE and _to_text(arguments[0]) in ("u1", "|u1"):
      return np.dtype(np.uint8)
    if name in _RECONSTRUCT and arguments[0] == _NDARRAY:
      return _UnfinishedArray()
    if name == _ENCODE and arguments[1] in ("latin1", "latin-1"):
      return arguments[0].encode("latin-1")
  raise Refused(f"it calls {name!r} with arguments that no uint8 array has")


def _set_state(target: Any, state: tuple[Any, ...]) -> None:
  """Complete an array from (version, shape, dtype, whether in Fortran order, pixels)."""
  if isinstance(target, np.dtype):
    return  # the byte order and fields of a dtype: a uint8 has none
  _, shape, dtype, is_fortran, pixels = state
  if not isinstance(target, _UnfinishedArray) or dtype != np.uint8 or is_fortran:
    raise Refused("it holds an object that is not a uint8 array in C order")
  content = pixels.encode("latin-1") if isinstance(pixels, str) else pixels
  target.array = np.frombuffer(content, np.uint8).reshape(shape)


def _finish(value: Any) -> Any:
  """Return the array that an `_UnfinishedArray` holds, and any other value unchanged."""
  return value.array if isinstance(value, _UnfinishedArray) else value


def _to_text(value: Any) -> str:
  return value.decode("latin-1") if isinstance(value, bytes) else str(value)
