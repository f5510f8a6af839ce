import subprocess
import sys

import pytest

from big_vision.pp import registry
from big_vision.pp.registry import Registry


@pytest.mark.parametrize(
  "string, want",
  [
    ("f", ("f", (), {})),
    ("f ", ("f ", (), {})),
    ("(f)", ("(f)", (), {})),
    ("a . b", ("a . b", (), {})),
    ("a . b(1)", ("a.b", (1,), {})),
    ("f()", ("f", (), {})),
    ("f(1, -2.5, 1+2j, k='x' \"y\")", ("f", (1, -2.5, 1 + 2j), {"k": "xy"})),
    ("f([1, (2,)], {'a': {3}})", ("f", ([1, (2,)], {"a": {3}}), {})),
    ("f(True, None, b'x')", ("f", (True, None, b"x"), {})),
    ("f(\n  1,\n)  # Why.", ("f", (1,), {})),
    ("f(**{'a': 1})", ("f", (), {None: {"a": 1}})),
  ],
)
def test_parse_name(string, want):
  assert registry.parse_name(string) == want


@pytest.mark.parametrize(
  "string, error, match",
  [
    ("f(x)", ValueError, None),
    ("f(2*3)", ValueError, None),
    ("f(2**10)", ValueError, None),
    ("f(*[1])", ValueError, None),
    ("f(g(1))", ValueError, None),
    ("f(f'{1}')", ValueError, None),
    ("f(__import__('os').getcwd())", ValueError, None),
    ("f(1)(2)", ValueError, r"Call.*f\(1\)\(2\)"),
    ("f(1).x", ValueError, r"Call.*f\(1\).x"),
    ("f(1).x(2)", ValueError, "Call"),
    ("1", ValueError, "Constant.*'1'"),
    ("a[0]", ValueError, "Subscript"),
    ("lambda: 1", ValueError, "Lambda"),
    ("a + b", ValueError, "BinOp"),
    ("f(", SyntaxError, None),
    (" f", SyntaxError, None),
    ("f(a=1, 2)", SyntaxError, None),
    ("", SyntaxError, None),
  ],
)
def test_parse_name_errors(string, error, match):
  with pytest.raises(error, match=match):
    registry.parse_name(string)


@pytest.fixture
def names(monkeypatch):
  """An empty registry for one test."""
  names = {}
  monkeypatch.setattr(Registry, "global_registry", staticmethod(lambda: names))
  return names


def test_register_and_lookup(names):
  fn = lambda *a, **kw: (a, kw)
  assert Registry.register("x.f")(fn) is fn
  assert names == {"x.f": fn}
  assert Registry.lookup("x.f")() == ((), {})
  assert Registry.lookup("x.f(1, k=2)")(3, k=4) == ((1, 3), {"k": 4})
  extra = Registry.lookup("x.f(1, k=2)", {"k": 5, "l": 6})
  assert extra() == ((1,), {"k": 5, "l": 6})
  assert Registry.knows("x.f") and Registry.knows("x.f(1, 2)")
  assert not Registry.knows("x.g(1)")


def test_register_refuses_taken_names(names):
  add = Registry.register("x")  # The check is when it decorates.
  again = Registry.register("x")
  add(1)
  with pytest.raises(KeyError, match="'x' is registered"):
    again(2)
  assert names == {"x": 1}
  assert Registry.register("x", replace=True)(3) == 3
  assert names == {"x": 3}


def test_lookup_errors(names):
  with pytest.raises(KeyError) as e:
    Registry.lookup("nope(1)")
  assert e.value.args == ("nope",)
  for fn in (Registry.lookup, Registry.knows):
    with pytest.raises(ValueError) as e:
      fn("f(x)")
    assert str(e.value) == "Error parsing:\nf(x)"
    assert isinstance(e.value.__cause__, ValueError)
    with pytest.raises(SyntaxError):
      fn("f(")


def test_temporary_ops(names):
  make_a, make_b = object(), object()
  with pytest.raises(RuntimeError):
    with registry.temporary_ops(a=make_a, b=make_b):
      assert names == {"preprocess_ops.a": make_a, "preprocess_ops.b": make_b}
      with pytest.raises(AssertionError, match="preprocess_ops.a"):
        with registry.temporary_ops(c=make_b, a=make_b):
          pass
      assert names == {"preprocess_ops.a": make_a, "preprocess_ops.b": make_b}
      raise RuntimeError
  assert not names


def test_needs_no_tensorflow():
  code = (
    "import sys; sys.modules['tensorflow'] = None;"
    "import big_vision.pp.registry, big_vision.pp.utils"
  )
  subprocess.run([sys.executable, "-c", code], check=True)
