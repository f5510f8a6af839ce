"""Videos: which frames come out, of folders, tar files and video files."""

import io
import json
import struct
import sys
import tarfile

import av
import hosts_in_turn
import jax
import numpy as np
import pytest
from PIL import Image

from big_vision import input_pipeline, lookup
from big_vision.datasets import core, video, video_frames
from big_vision.pipeline import validate
from big_vision.pp import ops_general, ops_text  # noqa: F401 (register ops)
from big_vision.pp.proj.paligemma import ops  # noqa: F401 (registers ops)
from big_vision.pp.proj.paligemma import video as video_ops  # noqa: F401
from big_vision.tf import tf

pytestmark = pytest.mark.tf
NUM = 20  # Frames of each video; frame i is of the gray level 10 * i + 20.


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("BV_CACHE_DIR", str(tmp_path / "cache"))


def gray(i):
  return np.full((32, 32, 3), 10 * i + 20, np.uint8)


def image_bytes(i, kind="JPEG", mode="RGB"):
  out = io.BytesIO()
  Image.fromarray(gray(i)).convert(mode).save(out, kind)
  return out.getvalue()


def encode(path, codec="libx264", num=NUM, rate=10, **options):
  """Writes a video file with PyAV."""
  options = {k.replace("_", "-"): str(v) for k, v in options.items()}
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate, options=options)
    stream.width = stream.height = 32
    stream.pix_fmt = "yuv420p"
    for i in range(num):
      frame = av.VideoFrame.from_ndarray(gray(i), format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def numbers(frames):
  """Which frames these JPEGs are."""
  images = [Image.open(io.BytesIO(frame)) for frame in frames]
  assert all(i.format == "JPEG" and i.mode == "RGB" for i in images)
  levels = [(np.asarray(i).mean() - 20) / 10 for i in images]
  np.testing.assert_allclose(levels, np.round(levels), atol=0.4)
  return [round(x) for x in levels]


def write_folder(path, name="{}.jpg", num=NUM, kind="JPEG"):
  path.mkdir(parents=True)
  for i in range(num):
    (path / name.format(i)).write_bytes(image_bytes(i, kind))


def write_tar(path, files):
  with tarfile.open(path, "w") as tar:
    for name, content in files:
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def root(tmp_path):
  """Folder `root/d` with a video of 20 frames of each kind."""
  folder = tmp_path / "root" / "d"
  write_folder(folder / "jpg")
  return tmp_path / "root"


def write(root, rows, file="train.jsonl"):
  lines = [json.dumps(row) for row in rows]
  (root / "d" / file).write_text("\n".join(lines) + "\n")


def open_source(root, split="train", num_frames=3, **kw):
  kw = {"stride": 4, "deterministic_fs": True, **kw}
  return video.DataSource("d", split, num_frames, data_dir=str(root), **kw)


def examples(source, ordered=True):
  return list(source.get_tfdata(ordered=ordered).as_numpy_iterator())


def frames_of(root, path, times=None, **kw):
  """Numbers of the frames of one video."""
  write(root, [{"video": path, **(times or {})}])
  ((example),) = examples(open_source(root, **kw))
  return numbers(example["episodic_images"])


def test_window():
  """The middle one of all windows that fit; fewer frames of short videos."""
  assert video.window(20, 3, 4) == [5, 9, 13]  # 5 before, 6 after.
  assert video.window(9, 3, 4) == [0, 4, 8]
  assert video.window(8, 3, 4) == [1, 5]
  assert video.window(1, 3, 4) == [0]
  assert video.window(4, 16, 1) == [0, 1, 2, 3]
  assert video.window(7, 1, 100) == [3]


@pytest.mark.parametrize("num", [1, 3, 8, 9, 20])
def test_random_window(num):
  """Every window that fits occurs, about equally often."""
  count = len(video.window(num, 3, 4))
  starts = []
  for i in range(1200):
    got = video.window(num, 3, 4, np.random.default_rng(i))
    assert np.array_equal(np.diff(got), [4] * (count - 1))
    starts.append(got[0])
    assert got[-1] < num
  room = num - (count - 1) * 4
  counts = np.bincount(starts, minlength=room)
  assert len(counts) == room
  assert abs(counts - 1200 / room).max() < 5 * np.sqrt(1200 / room)


@pytest.mark.parametrize(
  ("file", "codec", "options"),
  [
    ("a.mp4", "libx264", {}),  # One key frame; frames are stored out of order.
    ("b.mp4", "libx264", {"g": 6}),
    ("a.webm", "libvpx-vp9", {"g": 5, "deadline": "realtime"}),
    ("a.mkv", "mpeg4", {}),
    ("a.avi", "libx264", {"g": 6}),
    ("a.ts", "libx264", {}),
    ("a.h264", "libx264", {}),  # Without any timestamps.
  ],
)
def test_video_files(root, file, codec, options):
  encode(root / "d" / file, codec, **options)
  assert frames_of(root, file) == [5, 9, 13]
  assert frames_of(root, file, num_frames=NUM, stride=1) == list(range(NUM))
  assert frames_of(root, file, num_frames=9, stride=9) == [0, 9, 18]


def test_files_are_not_decoded_from_the_start(root, monkeypatch):
  """Only from the key frame before the first frame on."""
  encode(root / "d" / "a.mp4", g=5, bf=0)
  decoded = []
  of_frame = video_frames._picture
  monkeypatch.setattr(
    video_frames, "_picture", lambda f: decoded.append(f.pts) or of_frame(f)
  )
  monkeypatch.setattr(video_frames, "_by_decoding", None)
  assert frames_of(root, "a.mp4", num_frames=2, stride=1) == [9, 10]
  assert len(decoded) == 2


@pytest.mark.parametrize("g", [4, 100])
def test_timestamps_that_are_not_those_of_frames(root, monkeypatch, g):
  """Everything is decoded then: the same frames."""
  encode(root / "d" / "a.mp4", g=g)
  monkeypatch.setattr(video_frames, "_by_seeking", lambda *args: None)
  assert frames_of(root, "a.mp4") == [5, 9, 13]
  times = {"clip/start/timestamp": 1.0, "clip/end/timestamp": 1.5}
  assert frames_of(root, "a.mp4", times, stride=2) == [10, 12, 14]


def test_upright(root):
  """Phones store how a picture is to be turned."""
  path = root / "d" / "a.mp4"
  with av.open(str(path), "w") as container:
    stream = container.add_stream("libx264", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, 32:] = 255  # Bright on the right.
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    container.mux([*stream.encode(frame), *stream.encode()])
  one = 1 << 16
  unit = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
  turned = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
  head, track = path.read_bytes().split(b"tkhd")
  assert unit in track
  path.write_bytes(head + b"tkhd" + track.replace(unit, turned, 1))
  write(root, [{"video": "a.mp4"}])
  ((example),) = examples(open_source(root))
  image = Image.open(io.BytesIO(example["episodic_images"][0]))
  # The matrix takes (x, y) to (-y, x): a quarter clockwise.
  assert image.size == (32, 64)
  pixels = np.asarray(image).mean(-1)
  assert pixels[:28].max() < 40 and pixels[36:].min() > 215


def test_folders(root):
  """Frames in the order of their numbers; nothing else counts."""
  folder = root / "d" / "jpg"
  (folder / ".0.jpg").write_bytes(b"hidden")
  (folder / "notes.txt").write_bytes(b"no frame")
  assert frames_of(root, "jpg") == [5, 9, 13]
  assert frames_of(root, "jpg/", num_frames=30, stride=1) == list(range(NUM))
  write_folder(root / "d" / "png", "f_{}-x.PNG", kind="PNG")
  assert frames_of(root, "png", num_frames=5, stride=3) == [3, 6, 9, 12, 15]
  outside = root.parent / "outside"
  write_folder(outside, num=2)
  assert frames_of(root, str(outside)) == [0]


def test_jpegs_in_color_stay_as_they_are(root):
  folder = root / "d" / "x"
  folder.mkdir()
  (folder / "0.jpg").write_bytes(image_bytes(0))
  (folder / "1.jpg").write_bytes(image_bytes(1, mode="L"))
  (folder / "2.png").write_bytes(image_bytes(2, "PNG", mode="RGBA"))
  write(root, [{"video": "x"}])
  ((example),) = examples(open_source(root, stride=1))
  assert numbers(example["episodic_images"]) == [0, 1, 2]
  assert example["episodic_images"][0] == image_bytes(0)


def test_tar_files(root):
  encode(root / "d" / "a.mp4")
  frames = [(f"./c/{i}.jpg", image_bytes(i)) for i in range(NUM)]
  short = [(f"c/more/{i}.png", image_bytes(i, "PNG")) for i in range(4)]
  movie = ("m/a.mp4", (root / "d" / "a.mp4").read_bytes())
  files = [*frames[::-1], *short, movie, ("m/a.txt", b"text")]
  write_tar(root / "d" / "s.tar", files)
  assert frames_of(root, "s.tar#c/") == [5, 9, 13]
  assert frames_of(root, "s.tar#./c") == [5, 9, 13]
  assert frames_of(root, "s.tar#c/more", stride=1) == [0, 1, 2]
  assert frames_of(root, "s.tar#m/a.mp4") == [5, 9, 13]
  write_tar(root / "d" / "one.tar", frames)
  assert frames_of(root, "one.tar") == [5, 9, 13]


@pytest.mark.parametrize(
  ("start", "end", "want"),
  [
    (0.5, 1.0, [5, 6, 7, 8, 9]),
    (0.31, 0.69, [4, 5, 6]),
    ("00:00:01.2", "1:01", list(range(12, 20))),
    (1.21, 1.22, [13]),  # Between two frames.
    (0, 1e6, list(range(20))),
    ("0.5", "0.8", [5, 6, 7]),
  ],
)
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_clips(root, kind, start, end, want):
  times = {"clip/start/timestamp": start, "clip/end/timestamp": end}
  path = "jpg"
  if kind == "file":
    encode(root / "d" / "a.mp4", g=7)
    path = "a.mp4"
  times |= {"fps": 10} if kind == "folder" else {}
  got = frames_of(root, path, times, num_frames=NUM, stride=1)
  assert got == want
  del times["clip/end/timestamp"]
  got = frames_of(root, path, times, num_frames=NUM, stride=1)
  assert got == list(range(want[0], NUM))


def test_features(root):
  """All keys of the rows, with their types."""
  row = {
    "video": "jpg",
    "question": "what ä",
    "answer": ["red"],
    "caption/string": ["a", "bc"],
    "example/video_id": "v1",
    "segment_start": 3,
    "segment_end": 4.5,
    "ok": True,
    "many": [1, 2],
  }
  big = {"n": 2_000_000_000_000}  # Microseconds, say.
  rows = [{**row, **big}, {**row, **big, "segment_start": 3.5, "many": []}]
  rows[1]["caption/string"] = []
  write(root, rows)
  source = open_source(root)
  spec = source.example_spec()
  assert {k: (s.dtype, s.shape.as_list()) for k, s in spec.items()} == {
    "episodic_images": (tf.string, [None]),
    "id": (tf.string, []),
    "video": (tf.string, []),
    "question": (tf.string, []),
    "answer": (tf.string, [None]),
    "caption/string": (tf.string, [None]),
    "example/video_id": (tf.string, []),
    "segment_start": (tf.float32, []),
    "segment_end": (tf.float32, []),
    "ok": (tf.bool, []),
    "many": (tf.int64, [None]),
    "n": (tf.int64, []),
    "tfds_id": (tf.string, []),
    "_id": (tf.int32, []),
  }
  a, b = examples(source)
  assert a["id"] == b"0" and b["id"] == b"1"
  assert a["question"].decode() == "what ä" and a["answer"].tolist() == [b"red"]
  assert a["caption/string"].tolist() == [b"a", b"bc"]
  assert b["caption/string"].tolist() == [] and b["many"].tolist() == []
  assert a["many"].tolist() == [1, 2] and a["n"] == 2 * 10**12
  assert [x["segment_start"] for x in (a, b)] == [3, 3.5]
  assert [x["tfds_id"] for x in (a, b)] == [
    b"d/train.jsonl:1",
    b"d/train.jsonl:2",
  ]
  assert a["_id"] != b["_id"]
  write(root, [{"id": i, "video": "jpg"} for i in (7, 8)])
  assert [x["id"] for x in examples(open_source(root))] == [7, 8]


def write_shards(root):
  """Three shards of `train`, two rows each; others of similar names."""
  for i in range(3):
    rows = [{"video": "jpg", "n": 2 * i + j} for j in range(2)]
    write(root, rows, f"train-{9 + i}-of-00012.jsonl")
  write(root, [{"video": "jpg", "n": 10}], "valid.jsonl")
  write(root, [{"video": "jpg", "n": 20}], "test_0.jsonl")
  write(root, [{"video": "jpg", "n": 30}], "test_v2.jsonl")


@pytest.mark.parametrize(
  ("split", "kw", "want"),
  [
    ("train", {}, [0, 1, 2, 3, 4, 5]),
    ("train", {"first_k_shards": 1}, [0, 1]),
    ("train", {"first_k_shards": 2}, [0, 1, 2, 3]),
    ("train+valid", {"first_k_shards": 9}, [0, 1, 2, 3, 4, 5, 10]),
    ("train[50%:]+test", {"first_k_shards": None}, [3, 4, 5, 20]),
    ("test_v2", {}, [30]),
  ],
)
def test_shards_and_splits(root, split, kw, want):
  write_shards(root)
  got = examples(open_source(root, split, num_frames=1, **kw))
  assert [x["n"] for x in got] == want


def test_processes_get_contiguous_parts(root, monkeypatch):
  write_shards(root)
  source = open_source(root, "train[:5]")
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  assert source.num_examples_per_process() == [3, 2]
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  assert [x["n"] for x in examples(source)] == [3, 4]


def config(root, **kw):
  data = dict(
    name="bv:video",
    dataset_name="d",
    split="train",
    num_frames=2,
    stride=3,
    deterministic_fs=False,
    data_dir=str(root),
  )
  return dict(
    data=data,
    pp="keep('episodic_images', 'n')",
    batch_size=1,
    shuffle_buffer_size=100,
    prefetch=0,
    **kw,
  )


def train(cfg, num, **kw):
  """[(n, numbers of the frames)] of the first batches."""
  ds, total = input_pipeline.training(cfg, **kw)
  assert total == 6
  out = []
  for _, b in zip(range(num), ds.as_numpy_iterator(), strict=False):
    out.append((int(b["n"][0]), tuple(numbers(b["episodic_images"][0]))))
  return out


def test_training_is_random_and_resumes(root):
  write_shards(root)
  cfg = config(root)
  got = train(cfg, 24, seed=1)
  for begin in range(0, 24, 6):
    assert sorted(n for n, _ in got[begin : begin + 6]) == list(range(6))
  assert all(b - a == 3 for _, (a, b) in got)
  by_row = [{frames for n, frames in got if n == i} for i in range(6)]
  assert min(map(len, by_row)) > 1  # They differ from epoch to epoch,
  assert len({f for n, f in got[:6]}) > 2  # and from video to video.
  assert train(cfg, 24, seed=1) == got
  for step in (6, 17):
    assert train(cfg, 24 - step, seed=1, start_step=step) == got[step:]
  other = train(cfg, 24, seed=2)
  assert [n for n, _ in other] != [n for n, _ in got]
  assert {x for x in other} != {x for x in got}


def test_hosts_share_the_frames(root):
  """Two hosts read what one would have read."""
  write_shards(root)
  cfg = {**config(root), "batch_size": 2}
  ds, _ = input_pipeline.training(cfg)
  whole = [b for _, b in zip(range(6), ds.as_numpy_iterator(), strict=False)]
  for host in range(2):
    kw = dict(process_index=host, process_count=2)
    ds, _ = input_pipeline.training(cfg, **kw)
    for b, all_ in zip(ds.as_numpy_iterator(), whole, strict=False):
      for key in b:
        np.testing.assert_array_equal(b[key], all_[key][host : host + 1])


def test_a_single_row(root):
  write(root, [{"video": "jpg", "n": 0}])
  ds, total = input_pipeline.training(config(root))
  some = zip(range(20), ds.as_numpy_iterator(), strict=False)
  got = {tuple(numbers(b["episodic_images"][0])) for _, b in some}
  assert total == 1 and len(got) > 5


def test_deterministic_frames(root):
  write_shards(root)
  cfg = config(root)
  cfg["data"]["deterministic_fs"] = True
  assert {frames for _, frames in train(cfg, 12)} == {(8, 11)}


def test_evaluation_repeats_its_choice(root, monkeypatch):
  write_shards(root)
  data = config(root)["data"]
  source = core.get(**data)
  first, again = (
    [numbers(x["episodic_images"]) for x in examples(source)] for _ in range(2)
  )
  assert first == again and len({tuple(x) for x in first}) > 1
  pp = "video_decode(8)|video_ensure_shape('image', (2, 8, 8, 3))|keep('image')"
  one, two = (
    hosts_in_turn.global_batches(n, data, pp, 4, monkeypatch) for n in (1, 2)
  )
  np.testing.assert_array_equal(one["image"], two["image"])
  levels = (one["image"].mean((-1, -2, -3)) + 1) * 127.5
  want = 10 * np.array(first) + 20
  np.testing.assert_allclose(levels.reshape(-1, 2)[:6], want, atol=1)


def test_preprocessing_of_paligemma(root):
  """Strings as in the transfers: captions in training, questions in eval."""
  encode(root / "d" / "a.mp4")
  row = {
    "video": "a.mp4",
    "caption/string": ["one", "two"],
    "question": ["who?"],
    "answer": "me",
    "example/video_id": "v",
    "id": 5,
    "clip/start/timestamp": 0.5,
    "clip/end/timestamp": 1.25,
  }
  write(root, [row] * 2)
  frames = (
    "video_decode(16)|video_replicate_img(6,6)"
    '|video_ensure_shape("image", (6, 16, 16, 3))|'
  )
  cfg = config(root)
  cfg["pp"] = frames + (
    'strfmt("caption en", outkey="prefix")'
    '|video_choice(inkey="caption/string", outkey="suffix")'
    '|keep("image", "prefix", "suffix")'
  )
  ds, _ = input_pipeline.training({**cfg, "batch_size": 2})
  seen = set()
  for _, batch in zip(range(8), ds.as_numpy_iterator(), strict=False):
    assert batch["image"].shape == (2, 6, 16, 16, 3)
    seen |= set(batch["suffix"])
    for image in batch["image"]:
      levels = (((image.mean((1, 2, 3)) + 1) * 127.5) - 20) / 10
      got = levels.round().astype(int).tolist()
      assert got[1] - got[0] == 3 and got[0] >= 5 and got[1] <= 12
      assert got == got[:2] * 3  # Repeated.
  assert seen == {b"one", b"two"}
  pp = frames + (
    'reshape([], key="question")|reshape([], key="answer")'
    '|strfmt("answer en {question}", outkey="prefix")'
    '|strfmt("{id}#{example/video_id}[{clip/start/timestamp}-'
    '{clip/end/timestamp}]: {question}", outkey="question_id")'
    '|copy("caption/string", "captions")'
    '|keep("image", "prefix", "question_id", "answer", "captions")'
  )
  data = {**cfg["data"], "deterministic_fs": True, "first_k_shards": 1}
  get_iter, steps = input_pipeline.evaluation(
    data,
    pp,
    4,
    jax.devices()[:1],
    ["prefix", "question_id", "answer", "captions"],
  )
  batch = next(iter(get_iter()))
  assert steps == 1 and batch["image"].shape == (4, 6, 16, 16, 3)
  assert batch["question_id"][0] == "5#v[0.5-1.25]: who?"
  assert batch["prefix"][1] == "answer en who?"


def fails(root, rows, match, error=ValueError, **kw):
  write(root, rows)
  with pytest.raises(error, match=match):
    # Eagerly, where messages are as they were written.
    open_source(root, **kw).read(tf.constant(0, tf.int64))


@pytest.mark.parametrize(
  ("kw", "match"),
  [
    ({"num_frames": 0}, r"config.input.data.num_frames=0 must be a positive"),
    ({"stride": 1.5}, "config.input.data.stride=1.5 must be"),
    ({"first_k_shards": 0}, "first_k_shards=0 must be"),
    ({"split": "trian"}, "trian.jsonl .*Did you mean 'train'"),
    ({"split": "train[5:]"}, "input.data.split: bad split"),
  ],
)
def test_bad_arguments(root, kw, match):
  fails(root, [{"video": "jpg"}], match, **kw)


def test_where_the_data_lie(root, monkeypatch):
  write(root, [{"video": "jpg"}])
  monkeypatch.delenv("BV_VIDEO_DIR", raising=False)
  with pytest.raises(lookup.ConfigError, match="data_dir: .*BV_VIDEO_DIR"):
    video.DataSource("d", "train", 1)
  monkeypatch.setenv("BV_VIDEO_DIR", str(root))
  assert video.DataSource("d", "train", 1).total_examples == 1
  with pytest.raises(ValueError, match="dataset_name.*'msrvt'"):
    video.DataSource("msrvt", "train", 1)


def test_keys_of_configs(root):
  """Those of the transfers, and no others."""
  write(root, [{"video": "jpg", "n": 0}])
  cfg = {**config(root), "batch_size": None}
  validate.validate(cfg)
  cfg["data"] = {**cfg["data"], "num_frame": 1}
  with pytest.raises(ValueError, match="num_frame.*Did you mean 'num_frames'"):
    validate.validate(cfg)


ROW = {"video": "jpg", "x": 1}


@pytest.mark.parametrize(
  ("rows", "match"),
  [
    ([{"file": "jpg"}], r"train.jsonl:1: the rows need a key 'video'"),
    ([{"video": 3}], "need a key 'video'"),
    ([ROW, {"video": "jpg"}], r"jsonl:2: the keys differ .*missing \['x'\]"),
    ([ROW, {**ROW, "x": "1"}], "'x' is int in .*jsonl:1, str in .*jsonl:2"),
    ([{**ROW, "x": None}], "'x' is NoneType in"),
    ([{**ROW, "x": {"y": 1}}], "'x' is dict in"),
    ([{**ROW, "x": [[1]]}], "'x' is a list of list in"),
    ([ROW, {**ROW, "x": [1]}], "'x' is int in .* a list of int in"),
    ([{**ROW, "x": 2**63}], "jsonl:1: 'x'=.* int64; write it as a string"),
    ([{**ROW, "x": "\ud800"}], "jsonl:1: 'x' has half of a surrogate"),
    ([{**ROW, "tfds_id": "a"}], r"rename the keys \['tfds_id'\]"),
    ([[1]], "jsonl:1: invalid JSON: not an object"),
    ([], "has no examples"),
    ([{**ROW, "fps": 0}], "jsonl:1: 'fps' is 0; it must be a positive"),
    ([{**ROW, "fps": "x"}], "'fps' is b'x'; it must be a positive"),
  ],
)
def test_bad_rows(root, rows, match):
  fails(root, rows, match)


def test_text_that_is_not_json(root):
  write(root, [ROW, ROW])
  with (root / "d" / "train.jsonl").open("a") as f:
    f.write("\n{")
  with pytest.raises(ValueError, match=r"train.jsonl:4: invalid JSON: "):
    open_source(root)


@pytest.mark.parametrize(
  ("start", "end", "match"),
  [
    (2, 1, "jsonl:1: 'clip/end/timestamp' must be larger .* from 2.0 to 1.0"),
    ("1m", "2m", "'clip/start/timestamp' is b'1m'; it must be a number of sec"),
    (-1, 2, "is -1; it must be a number of seconds"),
    (float("nan"), 2, "is nan; it must be"),
    (2_000_000, 3_000_000, r"begins at 2e\+06 seconds, .* is at 1.9. Timest"),
  ],
)
def test_bad_timestamps(root, start, end, match):
  times = {"clip/start/timestamp": start, "clip/end/timestamp": end}
  fails(root, [{**ROW, **times, "fps": 10}], match)


def test_frames_without_times(root):
  fails(
    root,
    [{**ROW, "clip/end/timestamp": 1}],
    "jsonl:1: .*no times: add a key 'fps'",
  )


def test_bad_videos(root):
  """The error names the row, the file and what to do."""
  folder = root / "d"
  (folder / "empty").mkdir()
  (folder / "bad.mp4").write_bytes(b"no video" * 1000)
  encode(folder / "a.mp4", num=2)
  # Videos that are lists of other files.
  (folder / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
  (folder / "none").mkdir()
  (folder / "none" / "1.jpg").write_bytes(b"no picture")
  write_tar(folder / "a.tar", [("c/1.txt", b"x")])
  with av.open(str(folder / "sound.mp4"), "w") as container:
    stream = container.add_stream("aac", rate=44100)
    frame = av.AudioFrame.from_ndarray(
      np.zeros([1, 1024], np.float32), format="fltp", layout="mono"
    )
    frame.rate = 44100
    container.mux([*stream.encode(frame), *stream.encode()])
  for path, match in [
    ("gone.mp4", r"gone.mp4 is missing. Paths in 'video' are relative to .*/d"),
    ("gone", "/gone is missing"),
    (
      "empty",
      "The folder .*/empty has no frames, that is, files ending in .jpg",
    ),
    ("bad.mp4", "The video .*/bad.mp4 cannot be decoded .Invalid data"),
    ("list.mp4", "The video .*/list.mp4 cannot be decoded"),
    ("sound.mp4", "The video .*/sound.mp4 has no pictures"),
    ("none", "The frame .*/none/1.jpg is not an image"),
    ("gone.tar#c", "The shard .*/gone.tar is missing"),
    ("a.tar#d/", "The tar file .*/a.tar has no 'd'"),
    ("a.tar#c", "a.tar#c has no frames"),
  ]:
    fails(root, [{"video": path}], f"train.jsonl:1: .*{match}")


def test_errors_of_training(root):
  write_shards(root)
  rows = [{"video": "jpg", "n": 0}, {"video": "gone", "n": 1}]
  write(root, rows, "train-9-of-00012.jsonl")
  cfg = config(root)
  with pytest.raises(Exception, match=r"12.jsonl:2: .*/gone is missing"):
    train(cfg, 6)
  assert {n for n, _ in train({**cfg, "skip_errors": True}, 12)} == {
    0, 2, 3, 4, 5
  }  # fmt: skip


def test_missing_package(root, monkeypatch):
  monkeypatch.setitem(sys.modules, "av", None)
  advice = r"av is not installed: pip install 'big_vision\[video\]'"
  fails(root, [{"video": "a.mp4"}], advice, error=ModuleNotFoundError)
  (root / "d" / "file").write_bytes(b"")
  fails(root, [{"video": "file"}], advice)
  assert frames_of(root, "jpg") == [5, 9, 13]
