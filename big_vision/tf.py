"""TensorFlow and TensorFlow Datasets, imported when they are first used.

`from big_vision.tf import tf` costs nothing: TensorFlow is imported when an
attribute of `tf` is asked for the first time. That is why modules that use it
can be imported on machines without it, and why a test run does not import it
once per process before it knows which tests it will run.

The import takes half of the usual time. `import tensorflow` loads all of Keras,
which takes as long as the rest and is not used here. If TensorFlow is told that
Keras is the older package tf_keras, it does not find that package and goes on
without. `tf.keras` is loaded when somebody asks for it.
"""

import functools
import os
import threading
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from big_vision import extras

_KEY = "TF_USE_LEGACY_KERAS"
_lock = threading.RLock()
_modules: dict[str, types.ModuleType] = {}  # Those that are imported.


class _LazyModule(types.ModuleType):
  """Stands for a module that is imported when an attribute is asked for."""

  def __getattr__(self, name: str) -> Any:
    # Tools that look into any object, such as pytest, ask for private names.
    if name.startswith("_") and name != "__version__":
      raise AttributeError(
        f"module {self.__name__!r} has no attribute {name!r}"
      )
    return getattr(_modules.get(self.__name__) or _import(self.__name__), name)

  def __dir__(self) -> list[str]:
    return dir(_import(self.__name__))


def plain(fn: Callable[..., Any]) -> Callable[..., Any]:
  """Decorates a function of tensors that has no `if` or loop on their values.

  AutoGraph rewrites others for their sake, and whatever they call: tens of
  milliseconds for each function, a second for an input pipeline.
  """

  @functools.wraps(fn)
  def as_written(*args, **kw):
    return tf.autograph.experimental.do_not_convert(fn)(*args, **kw)

  as_written.is_plain = True
  return as_written


def plain_with(
  inner: Callable[..., Any], fn: Callable[..., Any]
) -> Callable[..., Any]:
  """Makes a function `plain` if another one is, which it calls.

  Args:
    inner: the other one, which may come from elsewhere.
    fn: the function, plain itself.

  Returns:
    The function.
  """
  inner = getattr(inner, "func", inner)  # Of a partial.
  return plain(fn) if hasattr(inner, "is_plain") else fn


def _import(name: str) -> types.ModuleType:
  with _lock:
    old = os.environ.get(_KEY)
    os.environ[_KEY] = "1"
    try:
      _modules[name] = extras.load(name)
      return _modules[name]
    finally:
      if old is None:
        del os.environ[_KEY]
      else:
        os.environ[_KEY] = old


if TYPE_CHECKING:
  # The types that there are of TensorFlow lack half of what it has. Modules that
  # do not exist are of unknown type: their names are allowed in annotations.
  import tensorflow_of_unknown_type as tf  # pyright: ignore
  import tfds_of_unknown_type as tfds  # pyright: ignore
else:
  tf = _LazyModule("tensorflow")
  tfds = _LazyModule("tensorflow_datasets")
