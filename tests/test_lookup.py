"""Names in configs find things of the right kind, and only those."""

import importlib
import pkgutil
import sys

import pytest

from big_vision import lookup

KINDS = {
  "models": ("Model", ()),
  "evaluators": ("Evaluator", ()),
  "datasets": ("DataSource", ("core", "source")),
}


@pytest.mark.tf
@pytest.mark.parametrize("package", KINDS)
def test_offers_what_defines_the_name(package):
  needs, but = KINDS[package]
  prefix = f"big_vision.{package}."
  root = importlib.import_module(prefix[:-1])
  walked = pkgutil.walk_packages(root.__path__, prefix)
  want = {
    m.name.removeprefix(prefix)
    for m in walked
    if hasattr(importlib.import_module(m.name), needs)
  }
  assert set(lookup.known_modules(package, needs)) == want
  with pytest.raises(ValueError) as e:
    lookup.module(package, "zzz", kind="k", needs=needs, but=but)
  listed = str(e.value).partition("Known: ")[2].rstrip(".").split(", ")
  assert set(listed) == want - set(but)


@pytest.mark.tf
def test_offers_modules_that_register_ops():
  known = lookup.known_modules("pp", lookup.OPS)
  assert {"ops_image", "archive.randaug", "proj.clippo.pp_ops"} <= set(known)
  assert not {"registry", "builder", "rng"} & set(known)
  lookup.preprocessing(
    {"pp_modules": ["ops_general", "big_vision.pp.ops_text"]}
  )
  with pytest.raises(
    ValueError, match="config.pp_modules: unknown .*'builder'"
  ):
    lookup.preprocessing({"pp_modules": ["builder"]})


@pytest.mark.tf
def test_preprocessing_of_a_project():
  from big_vision.pp import registry

  op = "preprocess_ops.make_canonical"
  module = "big_vision.pp.proj.uvim.pp_ops"
  before = sys.modules.pop(module, None)
  ops = registry.Registry.global_registry()
  mine = {
    k: v for k, v in ops.items() if getattr(v, "__module__", "") == module
  }
  try:
    for name in mine:
      del ops[name]
    for config in (
      {},
      {"model_name": None},
      {"model_name": "vit"},
      {"model_name": "proj.flexi.vit"},
      {"model_name": "my.own.model"},
      {"model_name": "proj.uvim.vit", "pp_modules": ["ops_general"]},
    ):
      lookup.preprocessing(config)
      assert op not in ops
    lookup.preprocessing({"model_name": "proj.uvim.vit"})
    assert op in ops
  finally:
    if before:
      ops.update(mine)
      sys.modules[module] = before


@pytest.mark.parametrize("name", ["common", "proj", "convnet", "", "a..b", "."])
def test_what_is_no_model(name):
  with pytest.raises(ValueError, match="config.model_name: unknown") as e:
    lookup.module("models", name, kind="model", key="model_name", needs="Model")
  if name:
    assert str(e.value).count(repr(name)) == 1  # Not suggested to itself.


@pytest.fixture
def user(tmp_path, monkeypatch):
  """Writes the modules of a user's project."""
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "bvuser").mkdir()
  before = set(sys.modules)

  def write(**sources):
    for name, source in sources.items():
      (tmp_path / "bvuser" / f"{name}.py").write_text(source)
    importlib.invalidate_caches()

  yield write
  for name in set(sys.modules) - before:
    if name.partition(".")[0] == "bvuser":
      del sys.modules[name]


def test_modules_of_a_user(user):
  user(mine="Model = dict", empty="", broken="import bvuser.missing")
  find = lambda name: lookup.module("models", name, kind="m", needs="Model")
  assert find("bvuser.mine").Model is dict
  with pytest.raises(ValueError, match="bvuser.empty exists, but has no `Mod"):
    find("bvuser.empty")
  with pytest.raises(ModuleNotFoundError, match="bvuser.missing"):
    find("bvuser.broken")
  assert lookup.attribute("bvuser.mine:Model") is dict
  assert lookup.attribute("bvuser.mine.Model") is dict
  assert lookup.attribute("bvuser.mine.Modell") is None
  assert lookup.attribute("bvuser.nowhere.Model") is None
  assert lookup.attribute("Model") is None


def test_errors_of_a_user_s_package_are_not_swallowed(user):
  user(__init__="from os import nothing_of_this_name")
  with pytest.raises(ImportError, match="nothing_of_this_name"):
    lookup.module("models", "bvuser.vit", kind="model")


def test_did_you_mean():
  known = ["alpha", "beta", "gamma"]
  assert lookup.did_you_mean("alpa", known) == ". Did you mean 'alpha'?"
  assert lookup.did_you_mean("zz", known) == ". Known: alpha, beta, gamma."
  assert lookup.did_you_mean("zz", []) == "."
  assert lookup.did_you_mean("zz", map(str, range(1000, 1050))).endswith(
    ", 1039 and 10 more."
  )


def test_check_keys():
  lookup.check_keys(["alpha"], {"alpha": 1, "beta": 2})
  with pytest.raises(ValueError, match="config.x.alfa is .*mean 'alpha'"):
    lookup.check_keys(["alfa"], ["alpha"], "x")
  with pytest.raises(ValueError, match="config.note is .*Known: alpha"):
    lookup.check_keys(["note"], ["alpha"])
  lookup.check_keys(["note"], ["alpha"], only_near=True)
  with pytest.raises(ValueError, match="config.alpa is .*mean 'alpha'"):
    lookup.check_keys(["note", "alpa"], ["alpha"], only_near=True)


def test_config_error_is_what_callers_catch():
  error = lookup.unknown("thing", "a", ["b"], "c", error=lookup.ConfigError)
  assert isinstance(error, ValueError) and isinstance(error, AssertionError)
  assert type(lookup.unknown("thing", "a", ["b"])) is ValueError


def test_stored_configs_import_what_is_named_only(user):
  user(mine="Model = dict\ndef loss(): pass", other="raise SystemExit('ran')")
  find = lambda name: lookup.module("models", name, kind="m", key="model_name")
  with lookup.stored_config():
    for use in (
      lambda: find("bvuser.other"),
      lambda: lookup.attribute("bvuser.other:loss"),
      lambda: lookup.import_if_exists("bvuser"),
      lambda: lookup.attribute("os:system"),
      lambda: lookup.preprocessing({"pp_modules": ["bvuser.other"]}),
    ):
      with pytest.raises(lookup.ConfigError, match="trust"):
        use()
    assert not [n for n in sys.modules if n.startswith("bvuser")]
    with pytest.raises(lookup.ConfigError, match=r"config.model_name .*bvuser"):
      find("bvuser.mine")
    with pytest.raises(ValueError, match="unknown m 'vitt'.*'vit'"):
      find("vitt")
    for name in ("vit", "big_vision.models.vit", "proj.clippo.one_tower"):
      assert find(name).Model
  with lookup.stored_config(["bvuser.mine"]):
    assert find("bvuser.mine").Model is dict
    for name in ("bvuser.other", "bvuser.mine2", "bvuser"):
      with pytest.raises(lookup.ConfigError):
        find(name)
  with pytest.raises(SystemExit, match="ran"):  # Free again.
    find("bvuser.other")
