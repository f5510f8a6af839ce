"""Evaluators of captioners, with predict functions whose results are known."""

import jax
import numpy as np
import pytest
import scipy.special

from big_vision.evaluators.proj.cappa import perplexity, scoring_classifier
from big_vision.pp import (
  ops_general,  # noqa: F401  (Registers its ops.)
  ops_image,  # noqa: F401
  ops_text,  # noqa: F401
)

pytestmark = pytest.mark.tf

PP = (
  'decode|resize(8)|value_range(-1, 1)|choice(inkey="captions", outkey="text")|'
  'tokenize(max_len=8, model="shapes", eos="sticky", inkey="text", '
  'outkey="labels")|keep("image", "labels")'
)
V = 512
SPLIT = "validation[:10]"


def logits_fn(train_state, batch):
  """Logits that depend on image and place, not on the caption."""
  mean = batch["image"].mean((1, 2, 3))[:, None, None]
  place = np.arange(8)[None, :, None] + 1
  table = np.sin(np.arange(V))[None, None]
  return train_state["scale"] * mean * place * table, {}


def run(module, fn, **kw):
  evaluator = module.Evaluator(
    fn,
    data=kw.pop("data", dict(name="shapes/closeup", split=SPLIT)),
    batch_size=4,
    devices=jax.devices()[:1],
    **kw,
  )
  return dict(evaluator.run({"scale": np.float32(3)})), evaluator


@pytest.mark.parametrize("normalize", [False, True])
def test_perplexity(normalize):
  got, evaluator = run(
    perplexity, logits_fn, pp_fn=PP, normalize_by_seqlen=normalize
  )
  losses = []
  for batch in evaluator.batches:
    real = np.asarray(batch["_mask"])
    logits = logits_fn(
      {"scale": 3}, {k: np.asarray(x) for k, x in batch.items()}
    )
    log_p = scipy.special.log_softmax(np.asarray(logits[0], np.float64), -1)
    labels = np.asarray(batch["labels"])
    each = np.take_along_axis(log_p, labels[..., None], -1)[..., 0]
    weights = labels != 0
    loss = -(each * weights).sum(-1)
    loss = loss / weights.sum(-1).clip(1) if normalize else loss
    losses += loss[real].tolist()
  assert len(losses) == 10
  assert got == {"perplexity": pytest.approx(np.mean(losses), rel=1e-5)}


PP_LABEL = (
  'decode|resize(8)|copy("shape_color", "label")|keep("image", "label")'
)
PP_TXT = (
  'tokenize(max_len=6, model="shapes", eos="sticky", inkey="label", '
  'outkey="labels")'
)


def test_scoring_classifier():
  seen = []

  def score(train_state, batch):
    del train_state
    tokens = batch["_label_tokens"]
    seen.append(np.asarray(tokens))
    label = batch["label"]
    best = jax.numpy.where(label % 3 == 0, (label + 1) % 64, label)
    return jax.nn.one_hot(best, len(tokens))

  got, evaluator = run(
    scoring_classifier,
    score,
    pp_fn=PP_LABEL,
    pp_txt=PP_TXT,
    class_names="dataset_info:shape_color",
  )
  labels = np.concatenate(
    [np.asarray(b["label"])[np.asarray(b["_mask"])] for b in evaluator.batches]
  )
  assert len(labels) == 10
  assert got == {"prec@1": pytest.approx(np.mean(labels % 3 != 0))}
  assert seen[0].shape == (64, 6)
  from big_vision.pp import tokenizer

  tok = tokenizer.get_tokenizer('sp("shapes")')
  for row, name in ((seen[0][0], "red circle"), (seen[0][9], "green square")):
    ids = tok.to_int(name, eos=True)
    assert row.tolist() == ids + [0] * (6 - len(ids))


def test_names_of_imagenet_are_those_of_clip():
  names = scoring_classifier.names_of(
    dict(data=dict(name="imagenet2012", split="validation"))
  )
  assert len(names) == 1000 and names[1] == "goldfish"
  given = scoring_classifier.names_of(
    dict(data=dict(name="other"), class_names=("a b", "C"))
  )
  assert given == ("a b", "C")


def test_errors():
  with pytest.raises(ValueError, match="gives no .*labels.*, only label"):
    scoring_classifier.label_tokens(("a",), "")
