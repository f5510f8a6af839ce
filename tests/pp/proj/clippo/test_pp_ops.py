"""Rendered text against a renderer in NumPy, with a font made for it."""

import numpy as np
import pytest

from big_vision.pp import builder
from big_vision.pp.proj.clippo import pp_ops, unifont
from big_vision.tf import tf

pytestmark = pytest.mark.tf

NARROW, WIDE = "abcdeA!", "中é\U0001f600"


def make_font():
  """{character: bool [16, width]}, with ink in some of the columns only."""
  rng = np.random.RandomState(0)
  font = {" ": np.zeros([16, 8], bool)}
  for text, width in ((NARROW, 8), (WIDE, 16)):
    for char in text:
      first = rng.randint(0, width - 1)
      last = rng.randint(first, width)
      glyph = np.zeros([16, width], bool)
      glyph[:, first : last + 1] = rng.rand(16, last + 1 - first) < 0.5
      glyph[[3, 5], [first, last]] = True
      font[char] = glyph
  return font


FONT = make_font()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  """The font as a .hex file."""
  lines = [
    f"{ord(c):0{4 if ord(c) < 2**16 else 6}X}:"
    + np.packbits(g, axis=1).tobytes().hex().upper()
    for c, g in FONT.items()
  ]
  path = tmp_path_factory.mktemp("font") / "font.hex"
  path.write_text("\n".join(lines) + "\n")
  return str(path)


def plain(
  text, image_size, font_size=16, max_chars=768, background_brightness=127,
  text_brightness=0, lower=True, monospace=False, spacing=1, min_width=4,
  resize=lambda glyph: glyph,
):  # fmt: skip
  """The specification, glyph by glyph."""
  if lower:
    text = "".join(c.lower() if c.isascii() else c for c in text)
  glyphs = []
  for char in text[: max_chars or None]:
    glyph = np.zeros([16, 16])
    known = FONT.get(char, np.zeros([16, 0]))
    glyph[:, : known.shape[1]] = known
    glyph = resize(glyph)
    if not monospace:
      filled = np.flatnonzero((glyph > 0).any(axis=0))
      first, last = (filled[0], filled[-1]) if len(filled) else (0, 0)
      begin = max(first - spacing, 0)
      glyph = glyph[:, begin : max(last + spacing, begin + min_width)]
    glyphs.append(glyph)

  ink = np.zeros([(image_size // font_size + 1) * font_size, image_size])
  widths = [g.shape[1] for g in glyphs]
  ends = np.cumsum(widths)
  position = {}
  for glyph, end in zip(glyphs, ends, strict=True):
    row = int(np.float32(end) / np.float32(image_size - max(widths)))
    x = position.get(row, 0)
    position[row] = x + glyph.shape[1]
    y = row * font_size
    if y < image_size:
      ink[y : y + font_size, x : position[row]] = glyph
  ink = ink[:image_size, :, None].astype(np.float32)
  low, high = (
    np.broadcast_to(np.float32(b), [3])
    for b in (background_brightness, text_brightness)
  )
  return (ink * (high - low) + low).astype(np.uint8)


def render(path, text, image_size, **kw):
  """uint8 [image_size, image_size, 3]."""
  data = make(path, image_size, **kw)({"t": tf.constant(text)})
  return data["o"].numpy()


def make(path, image_size, **kw):
  args = "".join(f", {k}={v!r}" for k, v in kw.items())
  return builder.get_preprocess_fn(
    f"render_unifont({image_size}{args}, font={path!r}, inkey='t', outkey='o')",
    log_data=False,
  )


TEXT = "Abc a中b é cde! \U0001f600a ?b A" * 3


@pytest.mark.parametrize(
  "size, kw",
  [
    (64, {}),
    (61, dict(lower=False)),
    (20, dict(spacing=0, min_width=1)),
    (224, dict(spacing=3, min_width=7)),
    (48, dict(monospace=True)),
    (64, dict(max_chars=5)),
    (64, dict(max_chars=None, spacing=0, min_width=0)),
    (64, dict(background_brightness=255, text_brightness=30)),
    (64, dict(background_brightness=(10, 20, 30), text_brightness=200)),
  ],
)
def test_as_in_numpy(path, size, kw):
  got = render(path, TEXT, size, **kw)
  np.testing.assert_array_equal(got, plain(TEXT, size, **kw))


def double(glyph):
  return glyph.repeat(2, axis=0).repeat(2, axis=1)


def halve(glyph):
  return glyph.reshape(8, 2, 8, 2).mean(axis=(1, 3))


@pytest.mark.parametrize(
  "font_size, resize", [(32, double), (8, halve)], ids=["double", "half"]
)
@pytest.mark.parametrize("monospace", [False, True])
def test_other_font_sizes(path, font_size, resize, monospace):
  kw = dict(font_size=font_size, monospace=monospace, text_brightness=3)
  got = render(path, TEXT, 70, **kw)
  want = plain(TEXT, 70, resize=resize, **kw)
  np.testing.assert_array_equal(got, want)
  assert len(np.unique(got)) == (2 if font_size == 32 else 5)


def test_ways_to_resize_do_not_overflow(path):
  image = render(
    path, TEXT, 70, font_size=20, resize_method="lanczos3", text_brightness=255,
    background_brightness=0, monospace=True,
  )  # fmt: skip
  ink = plain(TEXT, 70, font_size=20, monospace=True, resize=lambda g: (
    np.kron(g, np.ones([5, 5])).reshape(20, 4, 20, 4).mean(axis=(1, 3))
  ), text_brightness=255, background_brightness=0)  # fmt: skip
  # Overflows would make the corner of a black background white.
  assert np.corrcoef(image.ravel(), ink.ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
  "text, want",
  [
    ([], ""),
    (["ab", "c"], "ab"),
    ([["c"], ["ab"]], "c"),
    ("", ""),
    (b"a\xffb", "a\ufffdb"),
  ],
)
def test_first_text(path, text, want):
  text = tf.zeros([0], tf.string) if text == [] else text
  got = render(path, text, 32)
  np.testing.assert_array_equal(got, plain(want, 32))
  if not want:
    assert (got == 127).all()


@pytest.mark.parametrize("font_size", [16, 20])
def test_in_pipelines(path, font_size):
  fn = make(path, 40, font_size=font_size)
  texts = ["a", "", "bc a"]
  want = [fn({"t": tf.constant(t)})["o"] for t in texts]
  single = tf.data.Dataset.from_tensor_slices(texts)
  several = tf.data.Dataset.from_tensor_slices(
    tf.ragged.constant([["a", "b"], [], ["bc a"]])
  )
  for ds in (single, several):
    ds = ds.map(lambda t: fn({"t": t})["o"])
    assert ds.element_spec == tf.TensorSpec([40, 40, 3], tf.uint8)
    np.testing.assert_array_equal(list(ds), want)


def test_empty_text_of_another_size(path):
  assert (render(path, "", 32, font_size=24) == 127).all()


def test_no_room_left(path):
  """Where a glyph is nearly as wide as the image, rows stay empty."""
  got = render(path, "中a中", 17)
  np.testing.assert_array_equal(got, plain("中a中", 17))


def test_default_keys(path):
  fn = builder.get_preprocess_fn(f"render_unifont(32, font={path!r})")
  data = fn({"texts": tf.constant("a")})
  assert set(data) == {"texts", "image"}


def test_blanks_are_logged(monkeypatch):
  logged = []
  log = lambda level, text, n, *args: logged.append((n, text % args))
  monkeypatch.setattr(pp_ops.logging, "log_first_n", log)
  render(unifont.ASCII, "only ASCII", 64)
  assert not logged
  blank = render(unifont.ASCII, "aé", 64)
  assert logged and all(n == 1 for n, _ in logged)
  assert "U+00E9" in logged[0][1] and "download_unifont.sh" in logged[0][1]
  np.testing.assert_array_equal(blank, render(unifont.ASCII, "a", 64))


@pytest.mark.parametrize(
  "args, message",
  [
    ("16", "image_size=16 must be larger than font_size=16"),
    ("'64'", "image_size='64' must be an integer"),
    ("64, font_size=0", "font_size=0"),
    ("64, max_chars=-1", "max_chars=-1"),
    ("64, spacing=-1", "spacing=-1"),
    ("64, min_width=1.5", "min_width=1.5"),
    ("64, text_brightness=256", "text_brightness=256 must be"),
    ("64, background_brightness=(1, 2)", r"background_brightness=\[1, 2\]"),
    ("64, font_size=20, resize_method='x'", "x"),
    ("64, font='/no/such.hex'", "/no/such.hex.*download_unifont.sh"),
  ],
)
def test_bad_arguments(args, message):
  if "font=" not in args:
    args += ", font='ascii'"
  with pytest.raises(ValueError, match=message):
    builder.get_preprocess_fn(f"render_unifont({args})")


def test_unknown_argument():
  with pytest.raises(TypeError, match="color.*Usage: render_unifont"):
    builder.get_preprocess_fn("render_unifont(64, color=1)")


def test_tables_are_shared(path):
  glyphs = unifont.get(path)
  assert unifont.get(path) is glyphs
  assert pp_ops._tensors(glyphs)[1] is pp_ops._tensors(glyphs)[1]
