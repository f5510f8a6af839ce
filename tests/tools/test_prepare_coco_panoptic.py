"""From archives of COCO to the metric, with archives of a few small pictures."""

import io
import json
import os
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from big_vision import lookup, panoptic
from big_vision.datasets import panoptic_categories
from big_vision.evaluators.proj.uvim import coco_files, coco_panoptic
from big_vision.tools import prepare_coco_panoptic as tool

pytestmark = pytest.mark.tf

COCO = panoptic_categories.coco()
NUM = {"val2017": 3, "train2017": 5}


def pictures(part):
  """Pictures of shapes that pass for COCO: a crowd, a void region."""
  from big_vision.datasets import shapes

  split = {"val2017": "validation", "train2017": "train"}[part]
  for i in range(NUM[part]):
    example = shapes.make_example(
      split, i, image_size=32 + 8 * i, max_objects=3
    )
    ids = np.array(Image.open(io.BytesIO(example["panoptic_image"])))[..., 0]
    ids = ids.astype(np.int64)
    ids[:3] = 0
    segments = [
      {
        "id": 70_000 * s["id"],
        "category_id": COCO[s["label"] * 13 % 133].id,
        "area": int((ids == s["id"]).sum()),
        "iscrowd": int(i == 1 and s["id"] == 1),
        "bbox": [1, 2, 3, 4],
      }
      for s in example["panoptic_objects"]
    ]
    segments = [s for s in segments if s["area"]]
    yield 100 + i, example["image"], 70_000 * ids, segments


def png(ids):
  out = io.BytesIO()
  Image.fromarray(panoptic.rgb_of_ids(ids)).save(out, "PNG")
  return out.getvalue()


def packed(files):
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w") as z:
    for name, content in files.items():
      z.writestr(name, content)
  return out.getvalue()


def make_archives(folder):
  annotations = {}
  for part in NUM:
    images, pngs, rows, infos = {}, {}, [], []
    for number, image, ids, segments in pictures(part):
      name = f"{number:012d}"
      images[f"{part}/{name}.jpg"] = image
      pngs[f"panoptic_{part}/{name}.png"] = png(ids)
      rows.append(
        dict(image_id=number, file_name=f"{name}.png", segments_info=segments)
      )
      infos.append(
        dict(id=number, file_name=f"{name}.jpg", width=ids.shape[1],
             height=ids.shape[0])
      )  # fmt: skip
    found = dict(images=infos, annotations=rows)
    found["categories"] = panoptic_categories.to_json(COCO)
    annotations[f"annotations/panoptic_{part}.json"] = json.dumps(found)
    annotations[f"annotations/panoptic_{part}.zip"] = packed(pngs)
    (folder / f"{part}.zip").write_bytes(packed(images))
  (folder / tool.ANNOTATIONS).write_bytes(packed(annotations))


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
  folder = tmp_path_factory.mktemp("archives")
  make_archives(folder)
  return folder


def test_all_in_one_call(archives, tmp_path, monkeypatch, capsys):
  """Both sources of the truth give the same metric, which is right."""
  from tensorflow_datasets.core.download import checksums
  from tensorflow_datasets.object_detection import coco as tfds_coco

  from big_vision.pp import ops_general, ops_image  # noqa: F401  (Registers.)
  from big_vision.pp.proj.uvim import pp_ops  # noqa: F401

  infos = {
    f"{tool.URL}/{where}/{name}": checksums.compute_url_info(archives / name)
    for name, (where, _) in tool.ARCHIVES.items()
  }
  monkeypatch.setattr(tfds_coco.Coco, "url_infos", infos)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  monkeypatch.delenv(coco_files.FOLDER_VARIABLE, raising=False)
  assert tool.main([f"--archives={archives}"]) == 0
  folder = str(tmp_path / "coco_panoptic_annotations")
  assert f"export COCO_DATA_DIR={folder}\n" in capsys.readouterr().out
  stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*")}
  assert tool.main(["--archives=/nowhere"]) == 0  # Nothing is left to do.
  assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.*")} == stamps

  def predict(state, batch):
    """The truth, whose last instance is of another class."""
    semantics, instances = jnp.moveaxis(batch["labels"], -1, 0)
    last = instances == instances.max(axis=(1, 2), keepdims=True)
    semantics = jnp.where(last, state["add"] + semantics % 132, semantics)
    return jnp.stack([semantics, instances], axis=-1)

  pp = 'coco_panoptic|concat(["semantics","instances"], "labels")'
  pp += '|resize(64)|resize(64, key="labels", method="nearest")|keep("labels")'

  def evaluate(add, **kw):
    evaluator = coco_panoptic.Evaluator(
      predict, pp, 8, devices=jax.devices(), **kw
    )
    return dict(evaluator.run({"add": add}))

  perfect, wrong = evaluate(0), evaluate(1)
  assert 0.8 < perfect["All_pq"] <= 1 and perfect["Things_rq"] == 1
  assert wrong["All_pq"] < 0.7
  train = evaluate(1, split="train[1:4]")
  monkeypatch.setenv(coco_files.FOLDER_VARIABLE, folder)
  assert evaluate(1) == wrong and evaluate(1, split="train[1:4]") == train
  # The folder is what counts now: without an annotation, it fails.
  path = os.path.join(folder, "panoptic_val2017.json")
  with open(path, encoding="utf-8") as f:
    found = json.load(f)
  found["annotations"].pop()
  with open(path, "w", encoding="utf-8") as f:
    json.dump(found, f)
  with pytest.raises(lookup.ConfigError, match="val2017.json has no image 102"):
    evaluate(1)
  monkeypatch.setenv(coco_files.FOLDER_VARIABLE, str(tmp_path))  # Has no files.
  assert evaluate(1) == wrong
  with pytest.raises(SystemExit):
    tool.main([f"--coco_data_dir={folder}"])  # It has 2 of 3 images.


def test_download(archives, tmp_path, monkeypatch):
  for where in ("annotations", "zips"):
    (tmp_path / where).mkdir()
  source = archives / tool.ANNOTATIONS
  (tmp_path / "annotations" / tool.ANNOTATIONS).write_bytes(source.read_bytes())
  monkeypatch.setattr(tool, "URL", f"file://{tmp_path}")
  kw = dict(
    archives=str(tmp_path / "a"), coco_data_dir=str(tmp_path / "c"),
    annotations_only=True,
  )  # fmt: skip
  with pytest.raises(
    lookup.ConfigError, match=r"has the sha256 .*expected c05f"
  ):
    tool.prepare(**kw)
  import hashlib

  digest = hashlib.sha256(source.read_bytes()).hexdigest()
  monkeypatch.setitem(tool.ARCHIVES, tool.ANNOTATIONS, ("annotations", digest))
  assert tool.prepare(**kw) == kw["coco_data_dir"]
  names = sorted(os.listdir(kw["coco_data_dir"]))
  assert names == [
    "panoptic_coco_categories.json", "panoptic_train2017.json",
    "panoptic_train2017.zip", "panoptic_val2017.json", "panoptic_val2017.zip",
  ]  # fmt: skip
  assert panoptic_categories.of_file(f"{tmp_path}/c/{names[0]}") == COCO
  monkeypatch.setattr(tool, "URL", f"file://{tmp_path}/nowhere")
  kw = {**kw, "archives": str(tmp_path / "b"), "coco_data_dir": str(tmp_path)}
  with pytest.raises(lookup.ConfigError, match="Cannot download .*--archives="):
    tool.prepare(**kw)


@pytest.mark.parametrize(
  "name,content,message",
  [
    (tool.ANNOTATIONS, b"PK", "is not COCO's"),
    (tool.ANNOTATIONS, packed({"a": b""}), "is not COCO's"),
    (
      "panoptic_val2017.zip",
      packed({}),
      "image 100 has no PNG 000000000100.png",
    ),
    ("panoptic_val2017.zip", b"PK", "val2017.zip is damaged"),
    (
      "panoptic_val2017.zip",
      packed({f"{n:012d}.png": png(np.ones((3, 3))) for n in range(100, 103)}),
      "image 100 does not have the segment 1 both",
    ),
    ("panoptic_val2017.json", b'{"categories": []}', "distinct"),
    (
      "panoptic_val2017.json",
      b'{"categories": [{"id": 1, "name": "cat", "isthing": 1}]}',
      "not the 133",
    ),
  ],
  ids=map(str, range(7)),  # Of bytes, they would have the time.
)
def test_damage(archives, tmp_path, name, content, message):
  if name != tool.ANNOTATIONS:
    kw = dict(coco_data_dir=str(tmp_path), annotations_only=True)
    tool.prepare(str(archives), **kw)
  (tmp_path / name).write_bytes(content)
  with pytest.raises(lookup.ConfigError, match=message):
    tool.prepare(str(tmp_path), str(tmp_path), annotations_only=True)
