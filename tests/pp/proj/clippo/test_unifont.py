"""Where glyphs are looked for, and what is in their files."""

import gzip
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

from big_vision.pp.proj.clippo import unifont

A = """
........
........
........
........
...##...
..#..#..
..#..#..
.#....#.
.#....#.
.######.
.#....#.
.#....#.
.#....#.
.#....#.
........
........
"""


def glyph(glyphs, char):
  """bool [16, 16]."""
  return glyphs.ink[glyphs.index[ord(char)]].T.astype(bool)


def test_ascii():
  glyphs = unifont.get(unifont.ASCII)
  assert glyphs.only_ascii
  assert glyphs.ink.shape == (96, 16, 16) and glyphs.ink.dtype == np.uint8
  present = np.flatnonzero(glyphs.index)
  np.testing.assert_array_equal(present, np.arange(0x20, 0x7F))
  assert glyphs.index[-1] == 0 and not glyphs.ink[0].any()
  rows = ["".join(".#"[x] for x in row[:8]) for row in glyph(glyphs, "A") * 1]
  assert rows == A.split()
  assert not glyph(glyphs, " ").any() and not glyphs.ink[:, 8:].any()
  others = [glyph(glyphs, chr(c)).tobytes() for c in range(0x21, 0x7F)]
  assert len(set(others)) == 94 and all(any(g) for g in others)


def line(char, byte):
  """A glyph whose first byte is `byte`."""
  return f"{ord(char):04X}:{byte:02X}{'00' * 15}"


@pytest.fixture
def places(monkeypatch, tmp_path):
  """Folders in place of all the places where glyphs are looked for."""
  monkeypatch.delenv(unifont.ENV, raising=False)
  monkeypatch.setenv("BV_CACHE_DIR", str(tmp_path / "cache"))
  folders = {}
  for name in ("here", "system", "web"):
    folders[name] = tmp_path / name
    folders[name].mkdir()
  monkeypatch.setattr(unifont, "_HERE", folders["here"])
  monkeypatch.setattr(unifont, "_SYSTEM", folders["system"])
  monkeypatch.setattr(unifont, "_URL", folders["web"].as_uri())
  unifont._download.cache_clear()
  yield folders
  unifont._download.cache_clear()


def first_byte(font=None, char="a"):
  return np.packbits(glyph(unifont.get(font), char)[0])[0]


def test_order_of_places(places, monkeypatch, tmp_path):
  names = unifont._NAMES
  assert unifont.get() is unifont.get(unifont.ASCII)
  unifont._download.cache_clear()
  for name, byte in zip(names, (1, 2), strict=True):
    text = line("a" if byte == 1 else "b", byte)
    (places["web"] / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
  assert first_byte() == 1 and first_byte(char="b") == 2
  assert len(list((tmp_path / "cache/unifont").glob("*.sha256"))) == 2
  for path in places["web"].iterdir():  # They were kept.
    path.unlink()
  unifont._download.cache_clear()
  assert first_byte() == 1

  (places["system"] / "unifont.hex").write_text(line("a", 3))
  assert first_byte() == 3
  packed = gzip.compress(line("a", 4).encode())
  (places["here"] / f"{names[0]}.gz").write_bytes(packed)
  assert first_byte() == 4
  # Both files; the second one has code points above 0xFFFF.
  (places["here"] / names[1]).write_text(f"01F600:{'05' * 32}\r\n\r\n")
  assert first_byte() == 4 and first_byte(char="\U0001f600") == 5

  files = [tmp_path / f"{i}.hex" for i in (6, 7)]
  for i, path in enumerate(files, 6):
    path.write_text(line("a", i))
  monkeypatch.setenv(unifont.ENV, str(files[0]))
  assert first_byte() == 6
  assert first_byte(f"{files[0]}, {files[1]}") == 7
  monkeypatch.setenv(unifont.ENV, unifont.ASCII)
  assert unifont.get().only_ascii


def test_without_network(places, caplog):
  with caplog.at_level("WARNING", logger="absl"):
    assert unifont.get().only_ascii
    assert unifont.get().only_ascii
  (record,) = caplog.records  # It is tried, and said, once.
  assert "only ASCII" in record.getMessage()
  assert unifont.ENV in record.getMessage()


def test_no_glyphs_at_all(places, monkeypatch, tmp_path):
  monkeypatch.setattr(unifont, "_ASCII_FILE", tmp_path / "none.hex")
  with pytest.raises(ValueError, match="no glyphs.*download_unifont.sh"):
    unifont.get()


def test_named_font_is_missing(monkeypatch):
  monkeypatch.setenv(unifont.ENV, "/no/such.hex")
  with pytest.raises(ValueError, match="/no/such.hex.*BV_UNIFONT"):
    unifont.get()


@pytest.mark.parametrize(
  "bad",
  ["0041", "0041:00", "0041:" + "0" * 48, "xyz:" + "00" * 16,
   "0041:" + "0g" * 16, "110000:" + "00" * 16, "ä:" + "00" * 16],
)  # fmt: skip
def test_bad_files(tmp_path, bad):
  path = tmp_path / "bad.hex"
  path.write_text(line("a", 1) + "\n" + bad + "\n", encoding="utf-8")
  with pytest.raises(ValueError, match="bad.hex, line 2: .*hexadecimal"):
    unifont.get(str(path))


def test_empty_file(tmp_path):
  path = tmp_path / "empty.hex"
  path.write_text("\n")
  with pytest.raises(ValueError, match="No glyphs in .*empty.hex"):
    unifont.get(str(path))


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_download_script(tmp_path):
  script = pathlib.Path(unifont.__file__).parent / "download_unifont.sh"
  assert os.access(script, os.X_OK)
  web, target = tmp_path / "web", tmp_path / "target"
  web.mkdir(), target.mkdir()
  shutil.copy(script, target)
  run = lambda: subprocess.run(
    [target / script.name],
    env={**os.environ, "UNIFONT_URL": web.as_uri()},
    capture_output=True,
    text=True,
  )
  done = run()
  assert done.returncode != 0 and "curl" in done.stderr
  assert [p.name for p in target.iterdir()] == [script.name]  # Nothing partial.
  for i, name in enumerate(unifont._NAMES):
    text = f"{i}\n".encode()
    (web / f"{name}.gz").write_bytes(gzip.compress(text))
  assert run().returncode == 0
  for i, name in enumerate(unifont._NAMES):
    assert (target / name).read_text() == f"{i}\n"
  assert len(list(target.iterdir())) == 3
