"""Tar shards: headers, indices, fields, shards on the web, errors."""

import http.server
import io
import json
import os
import tarfile
import threading

import numpy as np
import pytest
from absl import logging

from big_vision import fs
from big_vision.datasets import shards, tar_index, webdataset
from big_vision.tf import tf

pytestmark = pytest.mark.tf


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("BV_CACHE_DIR", str(tmp_path / "cache"))
  return tmp_path / "cache"


def tar_bytes(files, **kw):
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode="w", **kw) as tar:
    for name, content in files:
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return out.getvalue()


def samples(begin, end):
  """Zeros at both ends of the content: they are part of it."""
  for i in range(begin, end):
    yield f"a.b/{i:03d}.jpg", b"\0image %d\0\0" % i
    yield f"a.b/{i:03d}.cls", b"%d\n" % (i % 3)


@pytest.fixture
def folder(tmp_path):
  """Three shards of 4, 3 and 5 samples."""
  for n, (begin, end) in enumerate([(0, 4), (4, 7), (7, 12)]):
    data = tar_bytes(samples(begin, end))
    (tmp_path / f"s-{n + 8:02d}.tar").write_bytes(data)
  return tmp_path


def rows(*args, **kw):
  source = webdataset.DataSource(*args, **kw)
  return list(source.get_tfdata(ordered=True).as_numpy_iterator())


def numbers(es):
  return [int(e["image"].strip(b"\0").split()[1]) for e in es]


def test_examples(folder):
  es = rows(str(folder / "s-{08..10}.tar"))
  assert numbers(es) == list(range(12))
  e = es[5]
  assert e["image"] == b"\0image 5\0\0" and e["label"] == 2
  assert e["label"].dtype == np.int64 and e["_id"].dtype == np.int32
  assert e["tfds_id"].decode() == str(folder / "s-09.tar/a.b/005")
  assert set(e) == {"image", "label", "tfds_id", "_id"}


def test_paths_and_splits(folder):
  glob = str(folder / "s-*.tar")
  assert numbers(rows(glob, "all[25%:]")) == list(range(3, 12))
  assert numbers(rows([str(folder / "s-10.tar"), str(folder / "s-08.tar")])) == [
    7, 8, 9, 10, 11, 0, 1, 2, 3,
  ]  # fmt: skip
  path = dict(train=str(folder / "s-{08,10}.tar"), val=str(folder / "s-09.tar"))
  assert numbers(rows(path, "val+train[-2:]")) == [4, 5, 6, 10, 11]
  with pytest.raises(ValueError, match="'vall'. Did you mean 'val'"):
    rows(path, "vall")
  with pytest.raises(ValueError, match="several splits.*: 'train', 'val'"):
    rows(path)


def test_braces():
  want = ["b0/8.tar", "b0/9.tar", "b0/10.tar", "c/8.tar", "c/9.tar", "c/10.tar"]
  assert shards.expand("{b0,c}/{8..10}.tar") == want
  assert shards.expand(["x{010..008}", "y"]) == ["x010", "x009", "x008", "y"]
  # `?` begins the query of a URL.
  assert shards.expand("http://h/{1..2}?a=*") == [
    "http://h/1?a=*",
    "http://h/2?a=*",
  ]


@pytest.mark.parametrize(
  "kw",
  [
    dict(format=tarfile.USTAR_FORMAT),
    dict(format=tarfile.GNU_FORMAT),
    dict(format=tarfile.PAX_FORMAT, pax_headers={"comment": "global"}),
  ],
)
def test_headers(tmp_path, kw):
  """Positions are those that the standard library finds."""
  ustar = kw["format"] == tarfile.USTAR_FORMAT
  names = ["x/1.jpg", "d" * 90 + "/" + "e" * 90 + "/2.txt", "4", "x/5.tar.gz"]
  names += [] if ustar else ["f" * 300 + ".png", "h\u00e9.cls"]
  files = [(n, os.urandom(i * 300)) for i, n in enumerate(names)]
  path = tmp_path / "x.tar"
  path.write_bytes(tar_bytes(files, **kw))
  with tarfile.open(path) as tar:
    want = [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]
  assert members(path.read_bytes()) == want


def members(data):
  read = lambda position, n: data[position : position + n]
  return list(tar_index.members(read, len(data), "x.tar"))


def with_pax(name, content, headers):
  """A tar file with one member, which has the pax headers."""
  out = io.BytesIO()
  with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
    info = tarfile.TarInfo(name)
    info.size, info.pax_headers = len(content), headers
    tar.addfile(info, io.BytesIO(content))
  return out.getvalue()


def test_pax_headers_win():
  """Of a size that does not fit into its field, and of a name."""
  data = with_pax("x.jpg", b"content", {"path": "h\u00e9.jpg", "size": "3"})
  ((name, position, size),) = members(data)
  assert (name, size) == ("h\u00e9.jpg", 3)
  assert data[position : position + 7] == b"content"


def test_sizes_in_base_256():
  """As GNU tar writes them from 8 GiB on."""
  data = tar_bytes([("a.jpg", b"x" * 600), ("b.jpg", b"y")])
  field = b"\x80" + bytes(9) + (600).to_bytes(2, "big")
  assert members(with_size(data, field)) == members(data)


def test_sparse_files_are_refused():
  """What is stored is not what the file has."""
  gnu = bytearray(tar_bytes([("a.jpg", b"x")], format=tarfile.GNU_FORMAT))
  gnu[156:157] = b"S"
  sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
  sparse |= {"GNU.sparse.name": "a.jpg", "GNU.sparse.realsize": "9"}
  stored = (b"1\n0\n1\n").ljust(512, b"\0") + b"x"
  for data in (
    with_size(bytes(gnu), gnu[124:136]),
    with_pax("GNUSparseFile.0/a.jpg", stored, sparse),
  ):
    with pytest.raises(ValueError, match="a.jpg' is a link, sparse or of"):
      members(data)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, b"6"])
def test_links_are_refused(kind):
  data = bytearray(tar_bytes([("a.jpg", b"")]))
  data[156:157] = kind
  with pytest.raises(ValueError, match="x.tar: the member 'a.jpg' is a link"):
    members(with_size(bytes(data), data[124:136]))


def test_folders_and_old_headers():
  """Of tar before POSIX: no magic, folders end in a slash."""
  data = bytearray(tar_bytes([("d/", b""), ("d/a.jpg", b"x")]))
  for start in (0, 512):
    header = bytearray(data[start : start + 512])
    header[156:157], header[257:265] = b"\0", bytes(8)
    data[start : start + 512] = with_size(header, header[124:136])
  assert members(bytes(data)) == [("d/a.jpg", 1024, 1)]


def test_names():
  for name, want in {
    "a/b.c/0.seg.PNG": ("a/b.c/0", "seg.png"),
    "./1.jpg": ("1", "jpg"),
    "a/.hidden.jpg": None,
    "a/README": None,
    "__index__.json": None,
  }.items():
    assert tar_index.split_name(name) == want


def test_features(tmp_path):
  meta = lambda i: json.dumps(
    {
      "size": {"w": i, "h": i + 0.5 if i else 3},
      "text": f"n\u00b0 {i}",
      "ok": True,
    }
  )
  files = []
  for i in range(3):
    files.append((f"{i}.{'png' if i == 1 else 'jpg'}", b"i%d" % i))
    files.append((f"{i}.json", meta(i).encode()))
    files.append((f"{i}.txt", b"caption"))
  path = tmp_path / "x.tar"
  path.write_bytes(tar_bytes(files))
  es = rows(str(path))
  assert set(es[1]) == {"image", "json", "txt", "tfds_id", "_id"}
  assert es[1]["image"] == b"i1" and es[1]["txt"] == b"caption"
  features = dict(
    img="jpg;png", w="json:size.w", text="json:text", ok="json:ok"
  )
  es = rows(str(path), features=features)
  assert es[2]["w"] == 2 and es[2]["w"].dtype == np.int64
  assert es[2]["text"].decode() == "n\u00b0 2" and es[2]["ok"] is np.True_
  with pytest.raises(ValueError, match="unknown field.*'jpgg'.*'jpg'"):
    rows(str(path), features=dict(image="jpgg"))
  with pytest.raises(ValueError, match="No value 'json:size.d' in .*x.tar/0"):
    rows(str(path), features=dict(d="json:size.d"))
  # The height is an int in the first sample and not in the others.
  with pytest.raises(
    tf.errors.InvalidArgumentError, match="'1.?' in .*x.tar.*int64"
  ):
    rows(str(path), features=dict(h="json:size.h"))
  source = webdataset.DataSource(str(path), features=dict(image="jpg"))
  (problem,) = source.bad_examples()
  assert "x.tar: the sample '1' has no 'jpg'" in problem


def test_index_is_kept_until_the_shard_changes(folder, cache, monkeypatch):
  pattern = str(folder / "s-*.tar")
  rows(pattern)
  files = sorted((cache / "webdataset" / "index").iterdir())
  assert len(files) == 3 and all(f.suffix == ".npz" for f in files)
  made = []
  make = tar_index.make
  monkeypatch.setattr(
    tar_index, "make", lambda path: made.append(path) or make(path)
  )
  rows(pattern)
  assert not made
  files[0].write_bytes(b"damaged")
  assert numbers(rows(pattern)) == list(range(12)) and len(made) == 1
  (folder / "s-09.tar").write_bytes(tar_bytes(samples(50, 52)))
  assert numbers(rows(pattern))[4:6] == [50, 51] and len(made) == 2
  # A folder that can not be written costs time, not the run.
  rows(pattern, cache_dir="/proc/nothing")
  assert len(made) == 5


@pytest.mark.parametrize(
  "change",
  [
    lambda a: a.pop("positions"),
    lambda a: a.update(positions=a["positions"][:-1]),
    lambda a: a.update(positions=a["positions"] + 10**9),
    lambda a: a.update(positions=-a["positions"]),
    lambda a: a.update(sizes=a["sizes"].astype(np.float32)),
    lambda a: a.update(sizes=a["sizes"] + 2**62),
    lambda a: a.update(key_lengths=a["key_lengths"] * 9),
    lambda a: a.update(keys=a["keys"] | 0x80),
    lambda a: a.update(fields=a["fields"][:1]),
  ],
  ids="missing fewer beyond negative floats overflow lengths bytes fields".split(),
)
def test_damaged_indexes_are_made_anew(folder, cache, caplog, change):
  """With one message, and the samples are those of the shard."""
  shard = str(folder / "s-08.tar")
  expected = numbers(rows(shard))
  (stored,) = (cache / "webdataset" / "index").iterdir()
  good = dict(np.load(stored))
  arrays = dict(good)
  change(arrays)
  np.savez(stored, **arrays)
  logging.set_verbosity(logging.INFO)
  assert numbers(rows(shard)) == expected
  said = [r.getMessage() for r in caplog.records if "anew" in r.getMessage()]
  assert len(said) == 1 and str(stored) in said[0]
  again = np.load(stored)
  for name, value in good.items():
    np.testing.assert_array_equal(again[name], value)


def test_one_bad_shard_does_not_take_others_down(folder, monkeypatch):
  """Whatever goes wrong with it: an error that nobody has thought of, too."""
  make, bad = tar_index.make, str(folder / "s-08.tar")

  def fail(path):
    if path == bad:
      raise IndexError("list index out of range")
    return make(path)

  monkeypatch.setattr(tar_index, "make", fail)
  source = webdataset.DataSource(str(folder / "s-*.tar"))
  (problem,) = source.bad_examples()
  assert problem == f"The shard {bad}: IndexError: list index out of range"
  assert source.total_examples > 5


@pytest.mark.parametrize(
  "pattern",
  [
    "{0..99999999999}",
    "{a,b}" * 40,
    "{1..999}{1..999}{1..999}",
    "{{1..999}00..012}",
  ],
)
def test_patterns_of_too_many_shards(pattern):
  with pytest.raises(ValueError, match="data.path.*more than 1,000,000 shards"):
    shards.expand(pattern + ".tar")


@pytest.mark.parametrize("store", ["ram", "memory"])
def test_remote_shards(folder, store):
  """File systems in memory, of TensorFlow and of fsspec, stand in for gs://."""
  root = f"{store}://shards"
  fs.makedirs(root)
  for path in fs.glob(str(folder / "s-*.tar")):
    with (
      open(path, "rb") as f,
      fs.open(f"{root}/{os.path.basename(path)}", "wb") as out,
    ):
      out.write(f.read())
  kw = dict(cache_dir=f"{store}://cache")
  es = rows(f"{root}/s-{{08..10}}.tar", **kw)
  assert numbers(es) == numbers(rows(f"{root}/s-*.tar", **kw))
  assert numbers(es) == list(range(12))
  assert es[0]["tfds_id"].decode() == f"{root}/s-08.tar/a.b/000"
  assert len(fs.listdir(f"{store}://cache/index")) == 3


@pytest.fixture
def server(folder):
  """A web server that knows no ranges, as Python's."""
  log = []

  class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args):
      super().__init__(*args, directory=str(folder))

    def log_message(self, fmt, *args):
      log.append(args)

    def do_GET(self):
      if "flaky" not in self.path:
        return super().do_GET()
      self.path = self.path.replace("flaky-", "")
      if not log:  # The first time it breaks off.
        self.send_response(200)
        self.send_header("Content-Length", "10000")
        self.end_headers()
        self.wfile.write(b"x" * 500)
        return None
      return super().do_GET()

  with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as httpd:
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://localhost:{httpd.server_port}", log
    httpd.shutdown()


def test_web(server, folder, monkeypatch):
  url, log = server
  pattern = url + "/s-{08..10}.tar"
  es = rows(pattern)
  assert numbers(es) == list(range(12))
  assert es[0]["tfds_id"].decode() == f"{url}/s-08.tar/a.b/000"
  rows(pattern)
  assert len(log) == 3  # Downloaded once.
  # A missing shard, one that is cut off at the source.
  os.truncate(folder / "s-10.tar", 2000)
  source = webdataset.DataSource(
    url + "/s-{07..10}.tar", cache_dir=str(folder / "other")
  )
  missing, cut = source.bad_examples()
  assert f"{url}/s-07.tar" in missing and "404" in missing
  assert f"{url}/s-10.tar is cut off" in cut
  assert source.total_examples == 4 + 3 + 2
  monkeypatch.setattr(shards.time, "sleep", lambda seconds: None)
  del log[:]
  es = rows(url + "/flaky-s-09.tar", cache_dir=str(folder / "third"))
  assert numbers(es) == [4, 5, 6] and len(log) == 2


def test_damaged_shards(folder, caplog):
  logging.set_verbosity(logging.INFO)
  shard = folder / "s-08.tar"
  good = shard.read_bytes()
  for data, message in {
    good[:2048]: "cut off .*'a.b/000.cls'",  # Between two members.
    good[:1200]: "cut off .*'a.b/000.jpg'",
    good[:700]: "cut off",
    good[:1024] + b"y" + good[1025:]: "damaged at 1024",
    b"z" * 5000: "is not a tar file",
    b"\x1f\x8b" + good: "is compressed",
    b"": "cut off",
    tar_bytes([("README", b"x")]): "no members with an extension",
    tar_bytes([("1.jpg", b"x"), ("1.jpg", b"y")]): "two members '1.jpg'",
  }.items():
    shard.write_bytes(data)
    source = webdataset.DataSource(str(folder / "s-*.tar"))
    (problem,) = source.bad_examples()
    assert str(shard) in problem
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
      source.read(tf.constant(0, tf.int64))
    assert source.read(tf.constant(1, tf.int64))["image"] == b"\0image 4\0\0"
    with pytest.raises(
      ValueError, match="none of 1 shards can be used.*" + message
    ):
      rows(str(shard))
  assert any("s-08.tar" in r.getMessage() for r in caplog.records)


def with_size(member, size):
  """Replaces the size field of a header, and its checksum."""
  header = bytearray(member[:512])
  header[124:136] = size
  header[148:156] = b" " * 8
  header[148:156] = b"%06o\0 " % sum(header)
  return bytes(header) + member[512:]


@pytest.mark.parametrize(
  "size", [b"-0000002000\0", b"\xff" * 11 + b"\0", b"\xff" * 10 + b"\xfe\0"]
)
def test_negative_sizes(folder, size):
  """They would lead back to where the reader has been."""
  first, second = (tar_bytes([(n, b"x" * 600)]) for n in ("a.jpg", "b.jpg"))
  (folder / "bad.tar").write_bytes(first[:1536] + with_size(second, size))
  with pytest.raises(ValueError, match="bad.tar is damaged at 1536.*'b.jpg'"):
    rows(str(folder / "bad.tar"))
  assert len(rows(str(folder / "s-08.tar"))) == 4


@pytest.mark.parametrize(
  "body", [b"0 path=x.jpg\n", b"-9 path=x\n", b"99 path=x\n", b"no records"]
)
def test_damaged_pax_headers(folder, body):
  data = tar_bytes([("h", body), ("a.jpg", b"x")], format=tarfile.USTAR_FORMAT)
  header = bytearray(data[:512])
  header[156:157] = b"x"
  header = with_size(bytes(header), header[124:136])
  (folder / "bad.tar").write_bytes(header + data[512:])
  with pytest.raises(ValueError, match="bad.tar is damaged at 512"):
    rows(str(folder / "bad.tar"))


def test_names_that_are_no_utf8(folder):
  """Different bytes are different samples."""
  files = [(f"{c}.jpg", c.encode()) for c in "\xe8\xe9"]
  data = tar_bytes(files, encoding="latin-1", format=tarfile.GNU_FORMAT)
  (folder / "latin.tar").write_bytes(data)
  got = rows(str(folder / "latin.tar"))
  assert [e["image"].decode() for e in got] == ["\xe8", "\xe9"]
  assert [e["tfds_id"].decode()[-4:] for e in got] == [r"\xe8", r"\xe9"]


def test_shard_that_shrinks_or_goes_while_in_use(folder):
  source = webdataset.DataSource(str(folder / "s-08.tar"))
  os.truncate(folder / "s-08.tar", 3000)
  with pytest.raises(ValueError, match="shorter.*s-08.tar/a.b/003"):
    source.read(tf.constant(3, tf.int64))
  (folder / "s-08.tar").unlink()
  with pytest.raises(ValueError, match="No such file.*s-08.tar"):
    source.read(tf.constant(3, tf.int64))


def test_labels(folder):
  path = folder / "s-08.tar"
  path.write_bytes(
    tar_bytes([("1.cls", b"dog"), ("2.cls", b" 2 "), ("3.cls", b"-1")])
  )
  source = webdataset.DataSource(str(path), num_classes=2)
  for i, message in enumerate(
    [
      r"label b'dog' of .*s-08.tar/1 is not an int",
      r"2 of .*s-08.tar/2 .*\[0, 2\)",
    ]
  ):
    with pytest.raises(ValueError, match=message):
      source.read(tf.constant(i, tf.int64))
  source = webdataset.DataSource(str(path))
  assert source.read(tf.constant(1, tf.int64))["label"] == 2
  with pytest.raises(ValueError, match="not be negative"):
    source.read(tf.constant(2, tf.int64))
  assert source.classes_of("label") is None
  values = [b"1", b"1.5", b'"dog"', b"1" + b"0" * 30]
  for value, message in zip(
    values,
    (
      None,
      "1.5 of .*/0 is not an integer",
      "b'dog' of .*/0 is text",
      "does not fit into int64",
    ),
    strict=True,
  ):
    path.write_bytes(tar_bytes([("0.json", b'{"y": %s}' % value)]))
    source = webdataset.DataSource(
      str(path), features=dict(label="json:y"), num_classes=2
    )
    assert source.classes_of("label").num == 2
    if message is None:
      assert source.read(tf.constant(0, tf.int64))["label"] == 1
    else:
      with pytest.raises(ValueError, match=message):
        source.read(tf.constant(0, tf.int64))
