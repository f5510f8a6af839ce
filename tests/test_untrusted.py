"""What others wrote: nothing of it runs, and one error says what is wrong."""

import ast
import json
import pathlib
import sys

import hypothesis
import pytest
from hypothesis import strategies as st

import fuzz
import untrusted_readers as readers
from big_vision import checkpoint_npz, lookup, untrusted
from big_vision.datasets import tfds_files
from big_vision.pp import registry, tokenizer
from big_vision.training import user_errors

BROKEN = pathlib.Path(__file__).parent / "golden" / "broken"
# Few examples, the same in every run; `fuzz.py` tries many.
few = hypothesis.settings(
  max_examples=25, derandomize=True, deadline=None, database=None
)
literals = st.recursive(
  st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
  lambda x: st.lists(x) | st.dictionaries(st.text(), x) | st.tuples(x, x),
  max_leaves=8,
)
_DEEP = {
  "brackets": "(" * 10_000 + ")" * 10_000,
  "signs": "-" * 50_000 + "1",
  "sums": "1+" * 40_000 + "1",
  "names": "a" + ".a" * 40_000,
  "zero byte": "f(\0)",
  "surrogate": "f('\ud800')",
  "digits": "9" * 10_000,
  "hexadecimal": "0x" + "f" * 10_000,
  "long": "[" + "1, " * 50_000 + "]",
}


@few
@hypothesis.given(literals)
def test_literals(value):
  text = repr(value)
  assert untrusted.literal(text) == ast.literal_eval(text) == value
  assert registry.parse_name(f"op({text}, k={text})") == (
    "op", (value,), {"k": value},
  )  # fmt: skip


@few
@hypothesis.given(
  st.text(max_size=40) | st.text("()[]{}'\"\\,=.*1a |:", max_size=40)
)
def test_any_text(text):
  for parse in (registry.parse_name, untrusted.literal):
    try:
      parse(text)
    except (ValueError, SyntaxError) as e:
      assert str(e)


@pytest.mark.parametrize("text", _DEEP.values(), ids=list(_DEEP))
def test_deep_and_huge(text):
  for parse in (registry.parse_name, untrusted.literal):
    with pytest.raises((SyntaxError, ValueError)) as e:
      parse(text)
    assert 5 < len(str(e.value)) < 500


def test_code_is_no_literal(tmp_path):
  target = tmp_path / "made"
  for code in (
    f"__import__('pathlib').Path({str(target)!r}).touch()",
    f"[open({str(target)!r}, 'w') for x in 'a']",
    "9 ** 9 ** 9 ** 9",
    "'x' * 10 ** 12",
    "{[]: 1}",
  ):
    with pytest.raises(ValueError):
      untrusted.literal(code)
    with pytest.raises(ValueError):
      registry.parse_name(f"op({code})")
  assert not target.exists()


@few
@hypothesis.given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_json(text):
  try:
    value = untrusted.json_value(text)
  except ValueError:
    with pytest.raises(ValueError):
      json.loads(text)
  else:
    assert repr(value) == repr(json.loads(text))


def test_deep_json():
  with pytest.raises(ValueError, match="nested too deeply"):
    untrusted.json_value("[" * 100_000)


@few
@hypothesis.given(st.binary(max_size=200), st.sampled_from([b"", b"PK\3\4"]))
def test_any_npz(tmp_path_factory, data, start):
  path = tmp_path_factory.getbasetemp() / "any.npz"
  path.write_bytes(start + data)
  with pytest.raises(lookup.ConfigError, match="any.npz"):
    checkpoint_npz.npload(path)


# What is said about each file that `golden/make_broken.py` makes.
SAID = {
  "bomb.npz": "bomb.npz of 1141 bytes would need 3500000000 bytes",
  "checksum.png": "checksum.png: This image cannot be read",
  "code.pth": "code.pth.*exec",
  "cut.jpg": "cut.jpg: This image cannot be read",
  "cut.npz": "cut.npz is damaged or incomplete",
  "cut.png": "cut.png: This image cannot be read",
  "cut.safetensors": "cut.safetensors",
  "cut.tar": "cut.tar is cut off",
  "cut.tif": "cut.tif: This image cannot be read",
  "deep.safetensors": "deep.safetensors",
  "header.tar": "header.tar is damaged at 1024",
  "huge.jpg": "65500 x 65500 = 4,290,250,000 pixels, at most",
  "huge.npz": "huge.npz is damaged or incomplete",
  "huge.png": "100000 x 100000 = 10,000,000,000 pixels, at most",
  "huge.safetensors": "huge.safetensors",
  "huge.tif": "99999 x 99999 = 9,999,800,001 pixels, at most",
  "link.tar": "link.tar: the member 'a.jpg' is a link",
  "loop.tif": "loop.tif: This",
  "name.tar": "name.tar is (cut off|damaged)",
  "negative.tar": "negative.tar is damaged at 0: the size",
  "objects.npz": "objects.npz holds Python objects",
  "overlap.safetensors": "overlap.safetensors",
  "pax_blank.tar": "pax_blank.tar is damaged at 512: the pax header",
  "pax_long.tar": "pax_long.tar is damaged at 512: the pax header",
  "pax_size.tar": "pax_size.tar is damaged at 512: the pax header",
  "pax_sparse.tar": "pax_sparse.tar: the member 'a.jpg' is a link, sparse",
  "pax_zero.tar": "pax_zero.tar is damaged at 512: the pax header",
  "shape.safetensors": "shape.safetensors",
  "text.png": "text.png: This image cannot be read: .*too large",
}


def test_broken_files_are_small():
  files = list(BROKEN.iterdir())
  assert {f.name for f in files} == SAID.keys()
  assert sum(f.stat().st_size for f in files) < 100_000


@pytest.mark.parametrize("name", SAID)
def test_broken_files(name):
  reader = readers.READERS[readers.SUFFIXES[pathlib.Path(name).suffix]]
  path = str(BROKEN / name)
  with pytest.raises(ValueError, match=SAID[name]) as e:
    reader.read(path)
  assert user_errors.is_of_user(e.value) or reader.name == "x.jpg"
  assert "\n" not in str(e.value) and len(str(e.value)) < 600


def _some(names, num, tmp_path):
  """Reads damaged inputs in this process."""
  outcomes, changed = set(), 0
  for name in names:
    reader = readers.READERS[name]
    reader.read(
      readers.write(reader, reader.seeds()[0], tmp_path / name / "seed")
    )
    seeds = reader.seeds()
    for number in range(num):
      data = fuzz.make_input(name, 1, number)
      changed += data not in seeds
      path = readers.write(reader, data, tmp_path / name / str(number))
      try:
        reader.read(path)
        outcomes.add("read")
      except Exception as e:
        assert readers.problem(e, path, reader) is None, (name, number)
        outcomes.add("refused")
  assert outcomes == {"read", "refused"} and changed > 0.9 * num * len(names)


@pytest.fixture
def quiet(monkeypatch):
  """Damaged images need no room."""
  monkeypatch.setenv("BV_MAX_IMAGE_PIXELS", str(fuzz.MAX_PIXELS))


def test_some_damaged_inputs(tmp_path, quiet):
  names = [n for n, r in readers.READERS.items() if not r.needs_tf]
  _some(names, 8, tmp_path)


@pytest.mark.tf
def test_some_damaged_inputs_with_tensorflow(tmp_path, quiet, tfds_data_dir):
  names = [n for n, r in readers.READERS.items() if r.needs_tf]
  _some(names, 4, tmp_path)


def test_the_same_seed_makes_the_same_inputs():
  make = lambda *a: fuzz.make_input("tar", *a)
  assert make(0, 3) == make(0, 3) != make(1, 3)
  assert len({make(0, i) for i in range(20)}) > 15


@pytest.mark.slow
def test_the_fuzzer_sees_faults(tmp_path):
  """A crash of the process, a loop without end, memory, an unclear error."""
  child = fuzz.Child(seconds=2)
  try:
    for name in readers.FAULTS:
      counts, _, wrong = fuzz.run(name, 0, range(1), child, tmp_path)
      kind = "unnamed" if name == "nameless" else name
      assert counts == {kind: 1} and wrong[0][:2] == (0, kind)
      assert (tmp_path / f"{name}-0-0").exists()
  finally:
    child.close()


def test_features_of_tfds_import_nothing(tmp_path, monkeypatch):
  (tmp_path / "evil_features.py").write_text("raise SystemExit('it ran')")
  monkeypatch.syspath_prepend(tmp_path)
  content = {
    "pythonClassName": "tensorflow_datasets.core.features.FeaturesDict"
  }
  inner = {"pythonClassName": "evil_features.Evil"}
  content["featuresDict"] = {"features": {"x": inner}}
  path = tmp_path / "features.json"
  path.write_text(json.dumps(content))
  with pytest.raises(
    lookup.ConfigError, match="evil_features.Evil.*pp_modules"
  ):
    tfds_files.check(str(tmp_path))
  monkeypatch.setitem(
    sys.modules, "evil_features", sys
  )  # Imported by the user.
  tfds_files.check(str(tmp_path))
  path.write_text("[" * 100_000)
  with pytest.raises(
    lookup.ConfigError, match="features.json is damaged.*deep"
  ):
    tfds_files.check(str(tmp_path))


def test_sets_of_tokens_are_bounded():
  assert len(tokenizer.get_extra_tokens(["loc", "seg(3)"])) == 1027
  for name in ("loc(10 ** 3)", "loc(99999999999)", "seg(-1)", "seg('a')"):
    with pytest.raises(ValueError):
      tokenizer.get_extra_tokens([name])
