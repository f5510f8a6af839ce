import ast
import logging

import pytest

from big_vision.pp import (
  builder,
  ops_general,  # noqa: F401  (Registers ops.)
  registry,
)
from big_vision.tf import tf

pytestmark = pytest.mark.tf


@pytest.fixture(autouse=True)
def ops():
  """Ops for these tests: `t_add`, `t_set`."""

  def add(n, *, k=1):
    return lambda d: {**d, "x": d["x"] * k + n}

  def set_(**kw):
    return lambda d: {**d, **kw}

  with registry.temporary_ops(t_add=add, t_set=set_):
    yield


def run(pp, data=None):
  return builder.get_preprocess_fn(pp)({} if data is None else data)


def run_later(pp):
  return builder.get_preprocess_fn(pp, log_data=False)


def test_order_and_empty_sections():
  assert run("t_add(3)|t_add(1, k=10)||t_add(n=2)|", {"x": 1}) == {"x": 43}
  assert run("", {"x": 1}) == {"x": 1}
  assert run(None, {"x": 1}) == {"x": 1}


def test_ops_of_users_may_branch_on_tensors():
  def clip(most):
    def op(data):
      if data["x"] > most:
        data["x"] = tf.constant(most, tf.int64)
      return data

    return op

  with registry.temporary_ops(t_clip=clip):
    fn = run_later("copy('x', 'y')|t_clip(1)|t_add(0)")
    ds = tf.data.Dataset.from_tensor_slices({"x": tf.range(3, dtype=tf.int64)})
    assert [int(d["x"]) for d in ds.map(fn)] == [0, 1, 1]


def test_white_space_and_comments():
  pp = """
    t_set(a=1)   # Don't split here: |, nor here: "
    | t_set |
    t_set (
      b=2,  # The second.
    ) |  \t
  """
  assert run(pp) == {"a": 1, "b": 2}


@pytest.mark.parametrize(
  "text", ["|", "a|b|c", "(|", "]|[", '"|"', "'|'", "\\|", "#|", "\n|", '"""|']
)
def test_separator_in_quotes(text):
  got = run(f"t_set(a={text!r})|t_set(b=[{text!r}, ({text!r},)])")
  assert got == {"a": text, "b": [text, (text,)]}


@pytest.mark.parametrize(
  "literal",
  [
    '"""a|"b" \n(|"""',
    r"'''it\'s|{'''",
    "'''a\n|'''",
    r"r'\|'",
    r"'\'|\\'",
    "b'|'",
    "'a|' \"|'b\"",
  ],
)
def test_separator_in_any_kind_of_literal(literal):
  got = run(f"t_set(a={literal})|t_set(b=1)")
  assert got == {"a": ast.literal_eval(literal), "b": 1}


@pytest.mark.parametrize("pp", [None, "", " | "])
def test_nothing_is_the_identity(pp):
  assert builder.get_preprocess_fn(pp, log_data=False)({"x": 1}) == {"x": 1}


def test_split_pipeline():
  assert builder.split_pipeline("a | b('|')||c(1,\n 2)| ") == [
    "a",
    "b('|')",
    "c(1,\n 2)",
  ]
  assert builder.split_pipeline(None) == builder.split_pipeline(" ") == []


def test_arguments_are_not_evaluated():
  with pytest.raises(
    ValueError, match=r"Error parsing:\n.*t_set\(a=print\(1\)\)"
  ):
    run("t_set(a=print(1))")


@pytest.mark.parametrize("section", ["t_set(", "t_set(a=1))", "1 +", "t set"])
def test_syntax_errors(section):
  with pytest.raises(ValueError) as e:
    run(section)
  assert str(e.value) == f"Syntax error on: {section}"
  assert isinstance(e.value.__cause__, SyntaxError)


def test_unknown_op_names_the_nearest():
  with pytest.raises(KeyError) as e:
    run("t_set|value_rang(1)")
  assert "'value_rang'" in e.value.args[0]
  assert "Did you mean 'value_range'" in e.value.args[0]
  assert "config.pp_modules" in str(e.value)


def test_unknown_op_names_the_module_to_import(monkeypatch):
  names = registry.Registry.global_registry()
  monkeypatch.delitem(names, "preprocess_ops.value_range")
  with pytest.raises(KeyError, match="'ops_general'.*config.pp_modules"):
    run("value_range")


@pytest.mark.parametrize(
  "pp, match",
  [
    ("t_add", r"^t_add: .*missing.*'n'.*t_add\(n, \*, k=1\)"),
    ("t_set|t_add(1, kk=2)", r"^t_add\(1, kk=2\): .*unexpected.*'kk'.*k=1"),
    ("t_add(1, 2)", r"^t_add\(1, 2\): .*positional"),
    ("reshape(shape=2)", r"^reshape\(shape=2\): .*\(new_shape, \*, key=None"),
  ],
)
def test_wrong_arguments(pp, match):
  with pytest.raises(TypeError, match=match):
    builder.get_preprocess_fn(pp)


def test_result_must_be_a_dict():
  with registry.temporary_ops(t_list=lambda: lambda d: [1]):
    fn = builder.get_preprocess_fn("t_list")
  message = "Argument `data` must be a dictionary, not <class 'list'>"
  with pytest.raises(ValueError) as e:
    fn({})
  assert str(e.value) == message
  with pytest.raises(ValueError, match="must be a dictionary"):
    run("", [1])


def test_no_key_is_special_and_data_stays_the_same_object():
  data = {"_id": 1, "_mask": True, "x": tf.constant([1.0])}
  assert run("value_range(key='x')", data) is data
  assert list(run("keep('x')", data)) == ["x"]


def test_op_runs_in_a_name_scope():
  with tf.Graph().as_default():
    out = run("value_range(key='x')", {"x": tf.constant([1.0])})
    assert out["x"].name.startswith("value_range/")


def test_in_tf_data():
  ds = tf.data.Dataset.range(3).map(lambda i: {"x": i})
  ds = ds.map(builder.get_preprocess_fn("t_add(3)|copy('x', 'y')"))
  got = [{k: int(v) for k, v in d.items()} for d in ds]
  assert got == [{"x": x, "y": x} for x in (3, 4, 5)]


def _messages(caplog):
  return [r.getMessage() for r in caplog.records]


def test_log_data(caplog):
  caplog.set_level(logging.INFO, logger="absl")
  fn = builder.get_preprocess_fn("t_add(1)", log_data="my data")
  fn({"x": 10})
  before, after = _messages(caplog)
  assert "before" in before and "(my data)" in before and "10" in before
  assert "after" in after and "(my data)" in after and "11" in after
  fn({"x": 10})
  assert len(caplog.records) == 2  # Only the first time.
  builder.get_preprocess_fn("t_add(1)", log_data=False)({"x": 10})
  assert len(caplog.records) == 2


def test_log_steps(caplog):
  caplog.set_level(logging.INFO, logger="absl")
  pp = "t_add(1)|t_add(n=2)"
  fn = builder.get_preprocess_fn(pp, log_data=False, log_steps=True)
  fn({"x": 10})
  fn({"x": 10})
  messages = _messages(caplog)
  assert len(messages) == 4  # Every time.
  assert "t_add(n=2)" in messages[1] and "11" in messages[1]
