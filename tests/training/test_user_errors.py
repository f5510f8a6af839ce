"""Users' mistakes as one line on the command line."""

import os

import jax
import numpy as np
import pytest
from absl import logging

from big_vision import fs, lookup
from big_vision import optax as bv_optax
from big_vision.evaluators import build
from big_vision.models import vit_sizes
from big_vision.training import user_errors


def test_a_config_error_is_one_line():
  with pytest.raises(SystemExit) as e, user_errors.one_line():
    raise lookup.ConfigError("config.lr is\n  negative.")
  assert e.value.code == "Error: config.lr is negative."


def test_errors_of_this_package_are_shown_without_traceback():
  with pytest.raises(SystemExit, match="Error: config.x is not a known key"):
    with user_errors.one_line():
      lookup.check_keys({"x": 1}, ["lr"])
  with pytest.raises(SystemExit, match="no/such/file"):
    with user_errors.one_line():
      fs.open("no/such/file")


def test_a_key_error_with_a_sentence():
  with pytest.raises(SystemExit, match="Error: config.model.variant: unknown"):
    with user_errors.one_line():
      vit_sizes.decode_variant("Q/16")


def test_a_run_that_cannot_go_on():
  with pytest.raises(SystemExit, match="Error: config.evals.x: .*API = .jit"):
    with user_errors.one_line():
      build.check_api(user_errors, "x", devices=np.zeros(1))
  with pytest.raises(RuntimeError), user_errors.one_line():
    raise RuntimeError("Of a user's own module.")


def test_what_python_raises_in_this_package_keeps_its_traceback():
  # Unpacks what is not a pair.
  with pytest.raises(ValueError), user_errors.one_line():
    bv_optax.replace_frozen([(".*", None, 3)], {"a": 1}, 0)


def test_missing_extras_are_named():
  with pytest.raises(SystemExit) as e, user_errors.one_line():
    raise ModuleNotFoundError("No module", name="tensorflow_datasets")
  assert e.value.code == (
    "Error: tensorflow_datasets is not installed: pip install "
    "'big_vision[data]', or use setup.sh."
  )
  # Of another package: perhaps a mistake in a user's own module.
  with pytest.raises(ModuleNotFoundError), user_errors.one_line():
    raise ModuleNotFoundError("No module", name="mine")


def test_a_device_without_enough_memory():
  text = (
    "RESOURCE_EXHAUSTED: Out of memory allocating 63100000000 bytes.\nDump: ..."
  )
  with pytest.raises(SystemExit) as e, user_errors.one_line():
    raise jax.errors.JaxRuntimeError(text)
  assert e.value.code.startswith(
    "Error: The device is out of memory: Out of memory allocating 63100000000 "
    "bytes. A smaller config.input.batch_size,"
  )
  assert "Dump" not in e.value.code and "\n" not in e.value.code
  with pytest.raises(jax.errors.JaxRuntimeError), user_errors.one_line():
    raise jax.errors.JaxRuntimeError("INTERNAL: a mistake")


def test_debug_shows_the_traceback(monkeypatch):
  monkeypatch.setattr("sys.argv", ["train", "--config=x", "--debug"])
  with pytest.raises(lookup.ConfigError), user_errors.one_line():
    raise lookup.ConfigError("config.lr")


def test_other_errors_keep_their_traceback():
  for wrong in (lambda: np.zeros(3).reshape(2), lambda: int("x")):
    with pytest.raises(ValueError), user_errors.one_line():
      wrong()
  with pytest.raises(FileNotFoundError), user_errors.one_line():
    os.listdir("no/such/folder")
  with pytest.raises(KeyboardInterrupt), user_errors.one_line():
    raise KeyboardInterrupt


def test_verbose_logging_shows_the_traceback():
  before = logging.get_verbosity()
  logging.set_verbosity(1)
  try:
    with pytest.raises(lookup.ConfigError), user_errors.one_line():
      raise lookup.ConfigError("config.lr")
  finally:
    logging.set_verbosity(before)
