"""TensorFlow, imported in half of the time: `from big_vision.tf import tf`.

`import tensorflow` loads all of Keras, which takes as long as the rest and is not
used here. It tries to, that is: told that Keras is the older package tf_keras,
which it does not find, it goes on without. `tf.keras` is what it always was; it
is loaded when somebody asks for it.
"""

import os

_KEY = "TF_USE_LEGACY_KERAS"


def _import():
  old = os.environ.get(_KEY)
  os.environ[_KEY] = "1"
  try:
    import tensorflow
  finally:
    if old is None:
      del os.environ[_KEY]
    else:
      os.environ[_KEY] = old
  return tensorflow


tf = _import()
