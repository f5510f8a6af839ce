"""Arguments in the config string and the helpers of configs."""

import math

import ml_collections as mlc
import pytest

from big_vision.configs import common
from big_vision.configs.common_fewshot import get_fewshot_lsr

SPEC = dict(res=224, runlocal=False)


@pytest.mark.parametrize(
  "arg, spec, want",
  [
    ("", SPEC, dict(res=224, runlocal=False)),
    (None, SPEC, dict(res=224, runlocal=False)),
    ("runlocal", SPEC, dict(res=224, runlocal=True)),
    ("128", SPEC, dict(res=128, runlocal=False)),
    ("runlocal,res=1,res=2,", SPEC, dict(res=2, runlocal=True)),
    (
      "runlocal=FALSE,res=3",
      dict(SPEC, runlocal=True),
      dict(res=3, runlocal=0),
    ),
    ("runlocal=", dict(runlocal=True), dict(runlocal=False)),
    ("name=a=b", dict(name="x"), dict(name="a=b")),
    ("lr=1e-3", dict(lr=0.1), dict(lr=0.001)),
    ("res=7", dict(res=(224, float)), dict(res=7.0)),
    ("flag=false", dict(flag=(None, bool)), dict(flag=False)),
    ("", dict(res=(None, int)), dict(res=None)),
    ("x=3", dict(x=None), dict(x=3)),
    ("x=light1", dict(x=None), dict(x="light1")),
  ],
)
def test_parse_arg(arg, spec, want):
  got = common.parse_arg(arg, **spec)
  assert got.to_dict() == want
  assert list(got) == list(spec)
  for name in want:
    assert type(got[name]) is (bool if name == "runlocal" else type(want[name]))


def test_parse_arg_lazy():
  got = common.parse_arg("x=1,y=2.5,z=False,w=ab,v,n=nan", lazy=True, res=2)
  got = got.to_dict()
  assert math.isnan(got.pop("n"))
  assert got == dict(res=2, x=1, y=2.5, z=False, w="ab", v=True)
  assert common.parse_arg("runlocal", lazy=True).to_dict() == {"runlocal": True}


def test_parse_arg_rejects():
  with pytest.raises(
    ValueError, match="^Unhandled config args remain: .*'rse'"
  ):
    common.parse_arg("rse=3", **SPEC)
  with pytest.raises(ValueError, match="Did you mean 'res'"):
    common.parse_arg("rse=3", **SPEC)
  with pytest.raises(ValueError, match="Unhandled config args remain"):
    common.parse_arg("x")
  with pytest.raises(ValueError, match="res='abc' is not of type int"):
    common.parse_arg("res=abc", **SPEC)
  with pytest.raises(AssertionError, match="true or false"):
    common.parse_arg("runlocal=maybe", **SPEC)
  for bad in ((1, 2), [1, 2, 3], (1,)):
    with pytest.raises(AssertionError, match="not supported"):
      common.parse_arg("", x=bad)


def test_get_type_with_default():
  assert common.get_type_with_default(3) == (3, int)
  assert common.get_type_with_default((3, str)) == (3, str)
  default, convert = common.get_type_with_default(True)
  assert (default, convert("TRUE"), convert("")) == (True, True, False)


@pytest.mark.parametrize(
  "text, want",
  [
    ("True", True),
    ("false", False),
    ("3", 3),
    ("1e3", 1000.0),
    ("abc", "abc"),
    ("", ""),
  ],
)
def test_autotype(text, want):
  got = common.autotype(text)
  assert got == want
  assert type(got) is type(want)


def test_autotype_wants_a_string():
  with pytest.raises(AssertionError):
    common.autotype(3)


def test_pack_arg_is_the_inverse():
  packed = common.pack_arg(a=1, b="x", c=True, d=0.5)
  assert packed == "a=1,b=x,c=True,d=0.5"
  got = common.parse_arg(packed, a=0, b="", c=False, d=0.0)
  assert got.to_dict() == dict(a=1, b="x", c=True, d=0.5)
  assert common.arg(res=3) == {"config_arg": "res=3", "res": 3}
  with pytest.raises(AssertionError, match="comma"):
    common.pack_arg(a=(1, 2))


def test_format_str_follows_the_config():
  config = mlc.ConfigDict(dict(res=32, sub=dict(n=dict(m="x"))))
  config.pp = common.format_str("resize({res})|op({sub.n.m}, {{}})", config)
  assert config.pp == "resize(32)|op(x, {})"
  config.res = 64
  config.sub.n.m = "y"
  assert config.pp == "resize(64)|op(y, {})"
  assert config.to_dict()["pp"] == "resize(64)|op(y, {})"
  assert common.format_str("flip_lr", config) == "flip_lr"
  assert type(common.format_str("flip_lr", config)) is str


@pytest.mark.parametrize("bad", ["{res:3d}", "{res!r}", "{}"])
def test_format_str_rejects(bad):
  with pytest.raises(AssertionError):
    common.format_str(bad, mlc.ConfigDict(dict(res=32)))


def test_format_str_needs_the_field():
  with pytest.raises((AttributeError, KeyError), match="rse"):
    common.format_str("{rse}", mlc.ConfigDict(dict(res=32)))


def test_input_for_quicktest():
  config = mlc.ConfigDict(dict(batch_size=1024, shuffle_buffer_size=9999))
  common.input_for_quicktest(config, False)
  assert config.batch_size == 1024
  common.input_for_quicktest(config, True)
  want = dict(batch_size=8, shuffle_buffer_size=10, cache_raw=False)
  assert config.to_dict() == want


def test_fewshot():
  config = get_fewshot_lsr()
  assert config.log_steps == 25_000
  assert config.type == "fewshot_lsr"
  assert config.pp_train == config.pp_eval
  assert config.pp_eval == (
    'decode|resize(256)|central_crop(224)|value_range(-1,1)|keep("image", '
    '"label")'
  )
  assert sorted(config.datasets) == [
    "caltech",
    "cars",
    "cifar100",
    "dtd",
    "pets",
    "uc_merced",
  ]


def test_fewshot_settings():
  config = get_fewshot_lsr(
    target_resolution=16,
    resize_resolution=20,
    runlocal=True,
    log_epochs=2,
    shots=[1, 5],
    num_seeds=1,
    prefix="fs/",
    pred="embed",
  )
  assert "log_steps" not in config
  assert config.log_epochs == 2
  assert list(config.shots) == [1, 5]
  assert (config.num_seeds, config.prefix, config.pred) == (1, "fs/", "embed")
  assert list(config.datasets) == ["pets"]
  assert config.display_first == [("pets", 10)]
  assert config.pp_eval.startswith("decode|resize(20)|central_crop(16)|")
  config = get_fewshot_lsr(pp="decode|value_range")
  assert config.pp_train == 'decode|value_range|keep("image", "label")'
