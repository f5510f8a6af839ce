"""One of two processes that evaluate answers together; see the test beside."""

import json
import sys

import answers
import jax
import numpy as np

from big_vision.evaluators.proj.paligemma.transfers import (
  coco_caption,
  detection,
  rsvqa,
  storepreds,
  tallyqa,
  vqa,
  vqav2,
)
from big_vision.models.proj.paligemma import locations


def examples():
  """13: one process has a row of padding more than the other."""
  r = np.random.default_rng(0)
  for i in range(13):
    boxes = r.uniform(0, 0.5, (i % 4, 4)).astype(np.float32)
    boxes[:, 2:] += 0.5
    labels = [f"x{j % 2}" for j in range(i % 4)]
    near = boxes + r.normal(0, 0.03, boxes.shape)
    said = " ; ".join(
      f"{locations.format_box(b)} {label}"
      for b, label in zip(near[::-1], labels, strict=True)
    )
    said = said if i % 3 else f"{said} ; é"
    yield {
      "id": f"{i}é",
      "question_id": i,
      "image/id": 100 - i,
      "answers": np.array([said] * (i % 5), str),
      "answer_type": ("yes/no", "number", "other")[i % 3],
      "question_type": ("comp", "count", "presence")[i % 3],
      "answer": said if i % 2 else str(i % 4),
      "captions": np.array(["a x0 there"] + ["x1"] * (i % 2), str),
      "objects/bbox": boxes,
      "objects/label": np.array(labels, str),
      "said": said,
    }


KEYS = {
  vqa: ("question_id", "answers"),
  coco_caption: ("image/id", "captions"),
  storepreds: ("id",),
  detection: ("objects/bbox", "objects/label"),
  rsvqa: ("question_id", "answers", "question_type"),
  tallyqa: ("answer",),
  vqav2: ("question_id", "answers", "answer_type"),
}
# These write no file.
METRICS_ONLY = (detection, tallyqa)


def replicated(state, batch, **kw):
  """Each device has all answers."""
  tokens = answers.decode(state, batch, **kw)
  whole = jax.sharding.NamedSharding(
    tokens.sharding.mesh, jax.sharding.PartitionSpec()
  )
  return jax.jit(lambda x: x, out_shardings=whole)(tokens)


def results(workdir):
  """What all evaluators yield, by their names."""
  out = {}
  for module, keys in KEYS.items():
    rows = [{k: x[k] for k in (*keys, "said")} for x in examples()]
    for by_index in (False, True):
      fn = replicated if by_index else answers.decode
      got = answers.run(
        module, rows, fn, by_index=by_index, batch_size=8,
        **outfiles(module, workdir, by_index),
      )  # fmt: skip
      name = module.__name__.rpartition(".")[2]
      out |= {f"{name}/{by_index}/{k}": v for k, v in got.items()}
  return out


def outfiles(module, workdir, by_index):
  path = f"{workdir}/{module.__name__}_{by_index}"
  if module in METRICS_ONLY:
    return {}
  if module in (rsvqa, vqa, vqav2):
    return dict(outfile=f"{path}.json")
  if module is storepreds:
    return dict(preds_outfile=f"{path}.json")
  if by_index:
    return dict(preds_outfile=f"{path}.json", annot_outfile=None)
  return dict(preds_outfile=None, annot_outfile=f"{path}.json")


if __name__ == "__main__":
  index, address, folder = sys.argv[1:]
  jax.config.update("jax_num_cpu_devices", 2)
  jax.distributed.initialize(address, 2, int(index))
  found = results(f"{folder}/two")
  with open(f"{folder}/{index}.json", "w", encoding="utf-8") as f:
    json.dump(found, f)
