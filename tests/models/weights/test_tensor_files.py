"""Files of weights: what torch wrote, and what must not be read.

The files of torch are from tests/golden/make_torch_files.py.
"""

import builtins
import io
import json
import math
import os
import pathlib
import pickle
import resource
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from big_vision import checkpoint_npz, lookup
from big_vision.models.weights import tensor_files, torch_pickle

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "torch_files"


def refused(path, *words):
  """Checks that a file is refused in one line that names it."""
  for fn in (tensor_files.shapes, tensor_files.read):
    with pytest.raises(lookup.ConfigError) as e:
      fn(str(path))
    message = str(e.value)
    assert str(path) in message and "\n" not in message, message
    for word in words:
      assert word in message, message
    assert len(message) < 500, message


@pytest.mark.parametrize("name", ["zip", "older"])
def test_files_of_torch(name):
  path = str(GOLDEN / f"{name}.pth")
  expected = dict(np.load(GOLDEN / "expected.npz"))
  shapes = tensor_files.shapes(path)
  assert shapes == {k: x.shape for k, x in expected.items()}
  assert "model.weight" in shapes and "optimizer.state.0.exp_avg" in shapes
  got = tensor_files.read(path)
  assert got["teacher.bfloat16"].dtype == ml_dtypes.bfloat16
  for key, x in expected.items():
    if key != "teacher.bfloat16":
      assert got[key].dtype == x.dtype, key
    np.testing.assert_array_equal(got[key].astype(x.dtype), x, err_msg=key)
  part = tensor_files.read(path, ["teacher.steps"])
  assert list(part) == ["teacher.steps"]
  np.testing.assert_array_equal(part["teacher.steps"], got["teacher.steps"])
  with pytest.raises(lookup.ConfigError, match=r"mean 'teacher\.steps'"):
    tensor_files.read(path, ["teacher.step"])


# Files of torch, written by hand.


def value(x):
  """Instructions that make a plain value."""
  return pickle.dumps(x, 2)[2:-1]


def tensor(
  key="0", shape=(2, 3), strides=(3, 1), offset=0, length=6, kind="Float"
):
  return (
    b"ctorch._utils\n_rebuild_tensor_v2\n(("
    + value("storage")
    + f"ctorch\n{kind}Storage\n".encode()
    + value(key)
    + value("cpu")
    + value(length)
    + b"tQ"
    + value(offset)
    + value(shape)
    + value(strides)
    + value(False)
    + b"}tR"
  )


def state_dict(**items):
  return b"".join([b"}(", *(value(k) + x for k, x in items.items()), b"u"])


def write_zip(path, content, storages=None, **kw):
  storages = {"0": np.arange(6, dtype=np.float32)} | (storages or {})
  with zipfile.ZipFile(path, "w", **kw) as z:
    z.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
    for key, x in storages.items():
      z.writestr(f"archive/data/{key}", x.tobytes())
  return path


def write_older(path, content, keys, storages):
  header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
  parts = [pickle.dumps(x, 2) for x in header]
  parts += [b"\x80\x02" + content + b".", pickle.dumps(keys, 2)]
  for x in storages:
    parts += [struct.pack("<q", x.size), x.tobytes()]
  path.write_bytes(b"".join(parts))
  return path


def test_written_by_hand(tmp_path):
  x = np.arange(6, dtype=np.float32)
  content = state_dict(a=tensor(), b=tensor(shape=(3, 2), strides=(1, 3)))
  files = [
    write_zip(tmp_path / "x.bin", content),
    write_older(tmp_path / "x.pt", content, ["0"], [x]),
  ]
  for path in files:
    got = tensor_files.read(str(path))
    np.testing.assert_array_equal(got["a"], x.reshape(2, 3))
    np.testing.assert_array_equal(got["b"], x.reshape(2, 3).T)


# Parts of pickles that make Python run something, or need much memory.
EXECUTED = {
  "function": (b"cos\nsystem\n" + value(("true",)) + b"R", "os.system"),
  "eval": (b"c__builtin__\neval\n" + value(("1",)) + b"R", "builtins.eval"),
  "by name": (
    value("builtins") + value("exec") + b"\x93" + value(("1",)) + b"R",
    "builtins.exec",
  ),
  "method": (b"ctorch\nnn.Module.eval\n", "torch.nn.Module.eval"),
  "load": (b"ctorch\nload\n", "torch.load"),
  "numpy": (b"cnumpy.testing._private.utils\nrunstring\n", "runstring"),
  "instance": (b"(ios\nsystem\n", "INST"),
  "object": (b"(cargparse\nNamespace\no", "OBJ"),
  "extension": (b"\x82\x01", "EXT1"),
  "call of a value": (value("x") + value(()) + b"R", "calls"),
  "call of a tensor": (tensor() + value(()) + b"R", "calls"),
  "named by a tensor": (tensor() + tensor() + b"\x93", "asks for"),
}


@pytest.mark.parametrize("name", EXECUTED)
def test_nothing_is_executed(tmp_path, monkeypatch, name):
  def fail(*_):
    raise AssertionError("executed")

  content, word = EXECUTED[name]
  content = state_dict(a=tensor(), b=content)
  files = [
    write_zip(tmp_path / "x.bin", content),
    write_older(tmp_path / "x.pth", content, ["0"], [np.zeros(6, "f4")]),
  ]
  monkeypatch.setattr(os, "system", fail)
  monkeypatch.setattr(builtins, "eval", fail)
  for path in files:
    refused(path, word, "safetensors")


def test_attributes_are_not_set(tmp_path):
  before = dict(vars(torch_pickle.Global))
  build = value((None, {"__defaults__": (1,), "name": "x"})) + b"b"
  items = dict(
    a=tensor() + build,
    b=b"ccollections\nOrderedDict\n)R" + value({"items": 1}) + b"b",
    c=b"ctorch._utils\n_rebuild_tensor_v2\n" + build,
    d=b"cargparse\nNamespace\n)\x81" + value({"__class__": 1}) + b"b",
  )
  got = tensor_files.read(
    str(write_zip(tmp_path / "x.bin", state_dict(**items)))
  )
  assert got.keys() == {"a"} and dict(vars(torch_pickle.Global)) == before


DAMAGED = {
  "too large": (dict(shape=(4, 3)), "exceeds its storage"),
  "beyond": (dict(offset=1), "exceeds its storage"),
  "steps": (dict(strides=(4, 1)), "exceeds its storage"),
  "expanded": (dict(shape=(1 << 40,), strides=(0,)), "exceeds its storage"),
  "backwards": (dict(strides=(-3, 1), offset=3), "not numbers"),
  "negative offset": (dict(offset=-1), "not numbers"),
  "empty": (dict(shape=(0, 1 << 60), strides=(1, 1)), "has the shape"),
  "dimensions": (dict(shape=(1,) * 65, strides=(1,) * 65), "65 dimensions"),
  "few strides": (dict(strides=(1,)), "1 strides"),
  "floats": (dict(shape=(2.0, 3)), "not numbers"),
  "long": (dict(length=1 << 40), "24 bytes"),
  "huge": (dict(shape=(1 << 100000, 3)), "not numbers"),
  "absent": (dict(key="../../etc/passwd"), "which the file lacks"),
  "type": (dict(kind="Double"), "24 bytes"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_tensors_that_exceed_their_storage(tmp_path, name):
  settings, words = DAMAGED[name]
  content = state_dict(good=tensor(), bad=tensor(**settings))
  refused(write_zip(tmp_path / "x.bin", content), "'bad'", words)


def nested(times):
  """A dict of dicts that lie twice in the next: 2 ** times of them."""
  x = value({"a": 1}) + b"q\x64"
  for i in range(100, 100 + times):
    key, after = bytes([i]), bytes([i + 1])
    x = b"}(" + value("a") + x + value("b") + b"h" + key + b"uq" + after
  return x


def test_bombs(tmp_path, monkeypatch):
  """None of them needs more than its share of memory."""
  monkeypatch.setattr(torch_pickle, "_MAX_INSTRUCTIONS", 10_000)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  for content, word in (
    (b"\x8e" + struct.pack("<Q", 1 << 40) + b"x", "damaged"),  # BINBYTES8.
    (b"\x96" + struct.pack("<Q", 1 << 40) + b"x", "damaged"),  # BYTEARRAY8.
    (b"\x8b" + struct.pack("<i", 1 << 30) + b"x", "damaged"),  # LONG4.
    (state_dict(a=nested(30)), "nested"),
    (b"}q\x64(" + value("a") + b"h\x64u", "nested"),  # It holds itself.
    (b"(" * 20_000, "instructions"),
    (b"", "damaged"),
    (b"}(" + value("a") + b"u", "damaged"),
    (b"h\x07", "damaged"),
  ):
    refused(write_zip(tmp_path / "x.bin", content), word)
    refused(write_older(tmp_path / "x.pth", content, [], []), word)
  # A place of the memo far away is only a number.
  far = value({}) + b"r" + struct.pack("<I", (1 << 32) - 1) + b"0"
  path = write_zip(tmp_path / "x.bin", far + state_dict(a=tensor()))
  assert tensor_files.shapes(str(path)) == {"a": (2, 3)}
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < 600_000, "kilobytes"


def test_zip_files(tmp_path):
  content = state_dict(a=tensor())
  path = tmp_path / "x.bin"
  refused(
    write_zip(
      path,
      content,
      {"0": np.zeros(1 << 22)},
      compression=zipfile.ZIP_DEFLATED,
    ),
    "compressed",
  )
  write_zip(path, content)
  with pytest.warns(UserWarning), zipfile.ZipFile(path, "a") as z:
    z.writestr("archive/data/0", b"x" * 24)
  refused(path, "'archive/data/0' twice")

  whole = write_zip(path, content).read_bytes()
  # Sizes, in the header of a member and in the table of contents.
  table = bytearray(whole)
  at = table.rindex(b"PK\x01\x02")
  table[at + 20 : at + 28] = struct.pack("<II", 1 << 31, 1 << 31)
  path.write_bytes(table)
  refused(path, "larger than the file")
  # As many bytes as the file has, but from the end on.
  table[at + 20 : at + 28] = struct.pack("<II", *[len(whole) - 200] * 2)
  path.write_bytes(table)
  refused(path, "'archive/data/0' is not where it says")
  table[at + 42 : at + 46] = struct.pack("<I", 1)
  path.write_bytes(table)
  refused(path, "damaged")
  for length in (len(whole) // 2, len(whole) - 30, 10):
    path.write_bytes(whole[:length])
    refused(path, "damaged")

  with zipfile.ZipFile(path, "w") as z:
    z.writestr("something.txt", "else")
  refused(path, "not one of torch.save")
  write_zip(path, content)
  with zipfile.ZipFile(path, "a") as z:
    z.writestr("archive/constants.pkl", "")
  refused(path, "TorchScript")
  write_zip(path, b"0" * (torch_pickle.MAX_BYTES + 1))
  refused(path, "too large")


def test_older_files(tmp_path):
  path = tmp_path / "x.pth"
  x = np.zeros(6, "f4")
  content = state_dict(a=tensor())
  whole = write_older(path, content, ["0"], [x]).read_bytes()
  path.write_bytes(whole[:-1])
  refused(path, "incomplete")
  for length in (3, 20, 100, len(whole) - 30):
    path.write_bytes(whole[:length])
    refused(path)
  refused(write_older(path, content, ["1"], [x]), "'1' without a type")
  refused(write_older(path, content, ["0", "0"], [x, x]), "twice")
  refused(write_older(path, content, 5, [x]), "no list")
  both = state_dict(a=tensor(), b=tensor(kind="Double"))
  refused(write_older(path, both, ["0"], [x]), "two types")
  path.write_bytes(pickle.dumps({"a": 1}))
  refused(path, "not a file of torch.save")
  refused(write_older(path, value({"a": 1}), [], []), "no tensors")


def test_long_names_are_cut(tmp_path):
  content = state_dict(**{"x" * 9999: tensor(key="y" * 9999)})
  refused(write_zip(tmp_path / "x.bin", content), "xxx")
  bad = {"x" * 9999: entry(dtype="y" * 9999)}
  refused(write_safetensors(tmp_path / "x.safetensors", bad), "xxx")


def test_names_that_are_there_twice(tmp_path):
  content = b"}(" + value("a.b") + tensor() + value("a")
  content += state_dict(b=tensor()) + b"u"
  refused(write_zip(tmp_path / "x.bin", content), "'a.b' twice")


# safetensors.


def write_safetensors(path, header, data=b"", length=None):
  header = header if isinstance(header, bytes) else json.dumps(header).encode()
  length = len(header) if length is None else length
  path.write_bytes(struct.pack("<Q", length) + header + data)
  return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
  return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_safetensors(tmp_path):
  path = str(tmp_path / "x.safetensors")
  tensors = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4, dtype=ml_dtypes.bfloat16),
    "c": np.array(1.5, np.float16),
    "d": np.zeros((0, 3), np.int64),
    "e": np.array([True, False]),
  }
  save_file(tensors, path, {"format": "pt"})
  assert tensor_files.shapes(path) == {k: x.shape for k, x in tensors.items()}
  got = tensor_files.read(path)
  for k, x in tensors.items():
    assert got[k].dtype == x.dtype
    np.testing.assert_array_equal(got[k], x)
  assert list(tensor_files.read(path, ["b"])) == ["b"]


HEADERS = {
  "type": (entry(dtype="F8_E4M3"), "'F8_E4M3'"),
  "no type": ({}, "type None"),
  "no dict": (3, "no dict"),
  "too few bytes": (entry(shape=(3,)), "12 bytes"),
  "too many bytes": (entry(shape=(1,)), "4 bytes"),
  "beyond": (entry(offsets=(4, 12)), "incomplete"),
  "backwards": (entry(offsets=(8, 0)), "[8, 0]"),
  "negative": (entry(shape=(-2,)), "shape [-2]"),
  "negative offsets": (entry(offsets=(-8, 0)), "data_offsets"),
  "three offsets": (entry(offsets=(0, 4, 8)), "[0, 4, 8]"),
  "absurd": (entry(shape=(1 << 40, 1 << 40)), "shape"),
  "absurd but empty": (entry(shape=(0, 1 << 60), offsets=(0, 0)), "shape"),
  "dimensions": (entry(shape=(1,) * 65, offsets=(0, 4)), "shape"),
  "float": (entry(shape=(2.0,)), "shape [2.0]"),
  "boolean": (entry(shape=(True, 2)), "shape [True, 2]"),
  "string": (entry(shape="2"), "shape '2'"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_safetensors(tmp_path, name):
  bad, words = HEADERS[name]
  path = write_safetensors(
    tmp_path / "x.safetensors", {"some.bad": bad}, bytes(8)
  )
  refused(path, "'some.bad'", words)


def test_broken_safetensors(tmp_path):
  path = tmp_path / "x.safetensors"
  both = {"a": entry(), "b": entry(offsets=(4, 12))}
  refused(write_safetensors(path, both, bytes(12)), "'a' and 'b' overlap")
  good = {"a": entry()}
  for length in (1 << 63, 10_000, 0, 1):
    refused(write_safetensors(path, good, bytes(8), length), str(length))
  refused(write_safetensors(path, b"[1]"), "not a dict")
  refused(write_safetensors(path, b"{" * 30), "not JSON")
  refused(write_safetensors(path, b"[" * 100_000), "not JSON")
  refused(write_safetensors(path, b"\xff\xfe"), "not JSON")
  twice = b'{"a": 1, "a": 2}'
  refused(write_safetensors(path, twice), "'a' is there twice")
  path.write_bytes(b"abc")
  refused(path, "not a whole safetensors file")
  refused(write_safetensors(path, good, bytes(7)), "'a'", "incomplete")


# Lists of several files.


def write_index(folder, where, end="safetensors"):
  path = folder / f"model.{end}.index.json"
  content = where if isinstance(where, str) else json.dumps(where)
  path.write_text(content)
  return path


def test_several_files(tmp_path):
  one, two = (
    {k: np.arange(3.0) + i for k in k} for i, k in enumerate(["ab", "c"])
  )
  save_file(one, tmp_path / "1.safetensors")
  save_file(two, tmp_path / "2.safetensors")
  where = dict(a="1.safetensors", b="1.safetensors", c="2.safetensors")
  path = write_index(tmp_path, {"weight_map": where})
  assert tensor_files.shapes(str(path)) == dict.fromkeys("abc", (3,))
  got = tensor_files.read(str(path), ["c", "a"])
  assert got.keys() == {"a", "c"}
  np.testing.assert_array_equal(got["c"], two["c"])
  assert tensor_files.read(str(path)).keys() == set("abc")

  # The hub's cache, where all files are links.
  snapshot = tmp_path / "snapshots" / "main"
  snapshot.mkdir(parents=True)
  for file in (path.name, "1.safetensors", "2.safetensors"):
    (snapshot / file).symlink_to(tmp_path / file)
  assert tensor_files.read(str(snapshot / path.name)).keys() == set("abc")

  write_index(tmp_path, {"weight_map": where | {"d": "2.safetensors"}})
  refused(path, "'d'", "2.safetensors")
  save_file(two | {"b": np.zeros(3)}, tmp_path / "2.safetensors")
  refused(path, "'b'", "both 1.safetensors and 2.safetensors")

  write_zip(tmp_path / "1.bin", state_dict(a=tensor()))
  write_zip(tmp_path / "2.bin", state_dict(b=tensor()))
  path = write_index(
    tmp_path, {"weight_map": {"a": "1.bin", "b": "2.bin"}}, "bin"
  )
  assert tensor_files.read(str(path)).keys() == set("ab")


def test_files_elsewhere(tmp_path):
  outside, folder = tmp_path / "outside", tmp_path / "folder"
  outside.mkdir()
  folder.mkdir()
  save_file({"a": np.zeros(2)}, outside / "x.safetensors")
  (folder / "link.safetensors").symlink_to(outside / "x.safetensors")
  (folder / "sub").symlink_to(outside)
  write_zip(folder / "x.bin", state_dict(a=tensor()))
  for name in (
    "../outside/x.safetensors",
    str(outside / "x.safetensors"),
    "sub/x.safetensors",
    "./x.safetensors",
    "..\\x.safetensors",
    "..",
    "",
    "x.bin",
  ):
    path = write_index(folder, {"weight_map": {"a": name}})
    refused(path, repr(name), "beside it")
  path = write_index(folder, {"weight_map": {"a": "link.safetensors"}})
  refused(path, "'link.safetensors'", "link out")
  path = write_index(folder, {"weight_map": {"a": "none.safetensors"}})
  with pytest.raises(lookup.ConfigError, match=r"none.safetensors does not"):
    tensor_files.shapes(str(path))
  for content in ("[]", "{", "[" * 100_000, '{"weight_map": {"a": 1}}', "{}"):
    refused(write_index(folder, content))


# NumPy's.


def test_npz(tmp_path):
  path = str(tmp_path / "x.npz")
  tree = {"a": {"b": np.arange(3.0)}, "c": np.ones((2, 2), ml_dtypes.bfloat16)}
  checkpoint_npz.save_checkpoint(tree, path, compressed=True)
  assert tensor_files.shapes(path) == {"a/b": (3,), "c": (2, 2)}
  got = tensor_files.read(path)
  assert got["c"].dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(got["a/b"], np.arange(3.0))
  assert list(tensor_files.read(path, ["c"])) == ["c"]


def test_broken_npz(tmp_path):
  path = tmp_path / "x.npz"
  np.savez(path, good=np.zeros(2), bad=np.array([{}], object))
  refused(path, "'bad'", "Python objects")
  array = io.BytesIO()
  np.save(array, np.zeros(3))
  content = array.getvalue()
  for start, end in ((b"(3,)", b"(9,)"), (b"(3,)", b"(1,)")):
    with zipfile.ZipFile(path, "w") as z:
      z.writestr("bad.npy", content.replace(start, end))
    refused(path, "'bad'")
  with zipfile.ZipFile(path, "w") as z:
    z.writestr("bad.npy", b"something else")
  refused(path, "'bad'")
  whole = (np.savez(path, x=np.zeros(2)), path.read_bytes())[1]
  path.write_bytes(whole[: len(whole) // 2])
  refused(path, "damaged")


def test_npz_that_would_fill_memory(tmp_path, monkeypatch):
  path = tmp_path / "x.npz"
  np.savez_compressed(path, x=np.zeros(1 << 20))
  assert tensor_files.shapes(str(path)) == {"x": (1 << 20,)}
  monkeypatch.setattr(checkpoint_npz, "_PLAUSIBLE", 1 << 20)
  refused(path, "memory")
  with pytest.raises(lookup.ConfigError, match="x.npz .* memory"):
    checkpoint_npz.load_checkpoint_np(str(path))


@pytest.mark.parametrize(
  "end", ["safetensors", "bin", "pth", "npz", "safetensors.index.json"]
)
def test_what_is_often_there_instead(tmp_path, end):
  path = tmp_path / f"x.{end}"
  path.write_bytes(b"")
  refused(path, "is empty")
  path.write_bytes(b"<!DOCTYPE html><html>")
  refused(path, "web page")
  path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")
  refused(path, "git lfs pull")
  refused(tmp_path / f"none.{end}", "does not exist")


def test_other_files(tmp_path):
  path = tmp_path / "x.h5"
  path.write_bytes(b"x" * math.prod((3, 3)))
  refused(path, ".safetensors, .bin")
