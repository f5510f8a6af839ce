"""Reads the pickle of a PyTorch checkpoint as data: nothing in it is executed.

The module `pickle` calls whatever a file names. Here, `pickletools` takes the
stream apart, and the few instructions that state dicts consist of build dicts,
lists, numbers and descriptions of tensors. Every other instruction, and every
class or function that is not listed below, is refused.
"""

import dataclasses
import pickletools
from typing import Any, BinaryIO, NamedTuple

# Streams have about 200 bytes and 50 instructions per tensor.
MAX_BYTES = 16 << 20
_MAX_INSTRUCTIONS = 2_000_000

# Name in `torch.<name>Storage` -> NumPy's name of the type.
_STORAGES = {
  "Double": "float64",
  "Float": "float32",
  "Half": "float16",
  "BFloat16": "bfloat16",
  "Long": "int64",
  "Int": "int32",
  "Short": "int16",
  "Char": "int8",
  "Byte": "uint8",
  "Bool": "bool",
  "ComplexDouble": "complex128",
  "ComplexFloat": "complex64",
}
STORAGES = {
  f"{module}.{name}Storage": dtype
  for module in ("torch", "torch.cuda")
  for name, dtype in _STORAGES.items()
}
_TENSORS = {
  "torch._utils._rebuild_tensor",
  "torch._utils._rebuild_tensor_v2",
  "torch._utils._rebuild_parameter",
  "torch._utils._rebuild_parameter_with_state",
  "torch._tensor._rebuild_from_type_v2",
}
_DICTS = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict"}
# What lies in checkpoints beside tensors. It is dropped, and stays what it is.
_IGNORED = {
  "torch.Size",
  "torch.device",
  "torch.Tensor",
  "torch.nn.parameter.Parameter",
  "argparse.Namespace",
  "builtins.set",
  "builtins.complex",
  "_codecs.encode",
  "pathlib.PosixPath",
  "pathlib.PurePosixPath",
  "pathlib.WindowsPath",
  "pathlib._local.PosixPath",
  "numpy.dtype",
  "numpy.ndarray",
  *(
    f"numpy.{core}.multiarray.{name}"
    for core in ("core", "_core")
    for name in ("scalar", "_reconstruct")
  ),
  *(f"torch.{bits}" for bits in ("float64", "float32", "float16", "bfloat16")),
  *(f"torch.{bits}" for bits in ("int64", "int32", "int16", "int8", "uint8")),
  *(f"torch.{bits}" for bits in ("bool", "complex64", "complex128")),
}
_KNOWN = _TENSORS | _DICTS | _IGNORED | STORAGES.keys()

_MARK = object()
_OTHER = object()  # Stands for everything that is dropped.

_CONSTANTS = {
  "NONE": None,
  "NEWTRUE": True,
  "NEWFALSE": False,
  "EMPTY_SET": _OTHER,
}
_VALUES = set(  # Instructions whose argument is their value.
  "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING"
  " SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES"
  " SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)


class Refused(ValueError):
  """Says what a pickle asks for that state dicts do not need."""


@dataclasses.dataclass(frozen=True, slots=True)
class Global:
  """A class or function that a pickle names.

  Attributes:
    name: with its module.
  """

  name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
  """A tensor, as it lies in its storage.

  Attributes:
    storage: what the stream says of it, not checked.
    offset: of the first number, in numbers.
    shape: of the tensor.
    strides: steps along its dimensions, in numbers.
  """

  storage: Any
  offset: Any
  shape: Any
  strides: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Persistent:
  """Holds what the stream says of a storage, not checked.

  Attributes:
    value: in checkpoints a tuple ("storage", type, key, device, length).
  """

  value: Any


class Loaded(NamedTuple):
  """Holds the content of a pickle.

  Attributes:
    content: dicts, lists, tuples, numbers, strings, `Global`, `Stored`,
      `Persistent`. Everything else is an object without meaning.
    persistent: all `Persistent`, also those beside tensors.
  """

  content: Any
  persistent: list[Persistent]


def load(f: BinaryIO) -> Loaded:
  """Reads one pickle.

  Args:
    f: file at its beginning; afterwards at its end. The caller limits it to
      `MAX_BYTES`.

  Returns:
    What it holds.

  Raises:
    Refused: it asks for more than that.
    ValueError: it is damaged.
  """
  machine = _Machine()
  try:
    for i, (opcode, arg, _) in enumerate(pickletools.genops(f)):
      if i >= _MAX_INSTRUCTIONS:
        raise Refused(f"has a pickle of over {i} instructions")
      if opcode.name == "STOP":
        return Loaded(machine.pop(), machine.persistent)
      machine.run(opcode.name, arg)
  except Refused:
    raise
  # Damage gets to indices, decoding, and numbers.
  except (ValueError, IndexError, KeyError, TypeError, OverflowError) as e:
    raise ValueError(
      f"is damaged or incomplete (its pickle: {type(e).__name__}: {e!s:.200})"
    ) from e
  raise ValueError("is damaged or incomplete (its pickle has no end)")


class _Machine:
  """Runs the instructions of a pickle."""

  def __init__(self):
    self.stack: list[Any] = []
    self.memo: dict[int, Any] = {}
    self.persistent: list[Persistent] = []

  def run(self, name: str, arg: Any) -> None:
    """Runs an instruction, whose names and meaning `pickletools` lists."""
    stack = self.stack
    match name:
      case "PROTO" | "FRAME":
        pass
      case "MARK":
        stack.append(_MARK)
      case "POP":
        stack.pop()
      case "POP_MARK":
        self._pop_to_mark()
      case "EMPTY_DICT":
        stack.append({})
      case "EMPTY_LIST":
        stack.append([])
      case "EMPTY_TUPLE":
        stack.append(())
      case "TUPLE1" | "TUPLE2" | "TUPLE3":
        values = [self.pop() for _ in range(int(name[-1]))]
        stack.append(tuple(values[::-1]))
      case "TUPLE":
        stack.append(tuple(self._pop_to_mark()))
      case "LIST":
        stack.append(self._pop_to_mark())
      case "DICT":
        stack.append(_dict(self._pop_to_mark()))
      case "APPEND":
        self._extend([self.pop()])
      case "APPENDS":
        self._extend(self._pop_to_mark())
      case "ADDITEMS":  # Of a set, which is dropped.
        self._pop_to_mark()
      case "SETITEM":
        value, key = self.pop(), self.pop()
        self._update([key, value])
      case "SETITEMS":
        self._update(self._pop_to_mark())
      case "PUT" | "BINPUT" | "LONG_BINPUT":
        self.memo[arg] = stack[-1]
      case "MEMOIZE":
        self.memo[len(self.memo)] = stack[-1]
      case "GET" | "BINGET" | "LONG_BINGET":
        stack.append(self.memo[arg])
      case "GLOBAL":
        stack.append(_global(*arg.split(" ", 1)))
      case "STACK_GLOBAL":
        attribute, module = self.pop(), self.pop()
        stack.append(_global(module, attribute))
      case "BINPERSID":
        self.persistent.append(Persistent(self.pop()))
        stack.append(self.persistent[-1])
      case "REDUCE" | "NEWOBJ":
        args, fn = self.pop(), self.pop()
        stack.append(_call(fn, args))
      case "BUILD":  # Attributes, which state dicts need not have.
        self.pop()
      case _ if name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
      case _ if name in _VALUES:
        stack.append(arg)
      case _:
        raise Refused(f"has the instruction {name} in its pickle")

  def pop(self) -> Any:
    x = self.stack.pop()
    if x is _MARK:
      raise ValueError("a mark out of place")
    return x

  def _pop_to_mark(self):
    values = []
    while (x := self.stack.pop()) is not _MARK:
      values.append(x)
    return values[::-1]

  def _extend(self, values):
    if isinstance(self.stack[-1], list):  # Else it is dropped.
      self.stack[-1].extend(values)

  def _update(self, values):
    if isinstance(self.stack[-1], dict):  # Else it is dropped.
      self.stack[-1].update(_dict(values))


def _dict(values):
  """Makes a dict of keys and values in turn."""
  if len(values) % 2:
    raise ValueError("a key without its value")
  pairs = zip(values[::2], values[1::2], strict=True)
  # The names of tensors are such keys. To hash others may take forever.
  return {k: v for k, v in pairs if isinstance(k, str | int)}


def _global(module, attribute):
  module = "builtins" if module == "__builtin__" else module  # Of Python 2.
  name = f"{module}.{attribute}"
  if name not in _KNOWN:
    raise Refused(f"asks for {name:.80}")
  return Global(name)


def _call(fn, args):
  """Stands in for a call."""
  if not isinstance(fn, Global):
    raise Refused(f"calls {type(fn).__name__} objects in its pickle")
  name = fn.name.rpartition(".")[2]
  if fn.name in _DICTS:
    # Python 2 wrote the items as an argument, a list of pairs.
    pairs = args[0] if args and isinstance(args[0], list) else []
    return _dict([x for pair in pairs for x in pair])
  if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
    storage, offset, shape, strides = args[:4]
    return Stored(storage, offset, shape, strides)
  if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
    return args[0]
  if name == "_rebuild_from_type_v2":
    return _call(args[0], args[2])
  if fn.name == "torch.Size":
    return tuple(args[0])
  return _OTHER
