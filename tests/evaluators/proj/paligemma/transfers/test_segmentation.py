"""Masks in boxes: values worked out by hand, with a decoder of two codes."""

import json

import answers
import jax
import numpy as np
import pytest

from big_vision.evaluators.proj.paligemma.transfers import segmentation
from big_vision.lookup import ConfigError

pytestmark = pytest.mark.tf

H, W = 20, 40
FULL, LEFT = 1, 2  # Codes of masks: all of the box, its left half.
NOTHING = 3


@pytest.fixture(autouse=True)
def decoder(monkeypatch):
  """Replaces the VQ-VAE."""

  def make(model):
    assert model in ("oi", "other")

    def decode(codes):
      assert codes.dtype == np.int32 and codes.shape[1:] == (16,)
      masks = np.ones((len(codes), 64, 64, 1), np.float32)
      for mask, code in zip(masks, codes[:, 0], strict=True):
        if code == LEFT:
          mask[:, 32:] = -1
        if code == NOTHING:
          mask[:] = -1
      return masks

    return decode

  monkeypatch.setattr(segmentation, "get_reconstruct_masks", make)


def said(box, codes=FULL):
  codes = [codes] * 16 if isinstance(codes, int) else codes
  locs = "".join(f"<loc{i:04d}>" for i in box)
  return locs + "".join(f"<seg{i:03d}>" for i in codes)


def example(text, y1=0, x1=0, y2=H, x2=W, channels=3):
  """The true object is a rectangle of pixels."""
  mask = np.zeros((H, W, channels), np.uint8)
  mask[y1:y2, x1:x2, 0] = 255
  mask[..., 1:] = 255  # Has no meaning.
  box = np.array([y1 / H, x1 / W, y2 / H, x2 / W], np.float32)
  return {"objects/mask": mask, "objects/bbox": box, "said": text}


def run(*examples, **kw):
  return answers.run(segmentation, list(examples), **kw)


ALL = (0, 0, 1023, 1023)


def test_by_hand():
  examples = [
    example(said(ALL)),  # 1 and 1.
    example(said(ALL, LEFT), 0, 0, H, W // 2),  # 1, box 1/2.
    example(said(ALL), 0, 0, H, W // 2),  # 1/2, box 1/2.
    example(said(ALL, LEFT)),  # 1/2, box 1.
    # The box of columns int(512 / 1023 * 40) = 20 to 40, its left half to 30;
    # the truth is columns 20 to 40, all rows: 1/2.
    example(said((0, 512, 1023, 1023), LEFT), 0, 20, H, W),
    # Right of the truth: 0.
    example(said((0, 512, 1023, 1023)), 0, 0, H, 20),
    # Rows 5 to 15 (256 / 1023 * 20 = 5.005, 768 / 1023 * 20 = 15.01), of 20.
    example(said((256, 0, 768, 1023)), 0, 0, H, W, channels=1),
    example(said(ALL, NOTHING)),
    example("no mask"),
  ]
  got = run(*examples)
  assert list(got) == ["miou", "boxacc/0.5", "boxacc/0.75", "invalid", "total"]
  miou = (1 + 1 + 0.5 + 0.5 + 0.5 + 0 + 0.5 + 0 + 0) / 9
  # Boxes: 1, 1/2, 1/2, 1, 0.999, 0, 512/1023, 1, 0.
  assert got == {
    "miou": pytest.approx(miou),
    "boxacc/0.5": pytest.approx(7 / 9),
    "boxacc/0.75": pytest.approx(4 / 9),
    "invalid": 1,
    "total": 9,
  }


@pytest.mark.parametrize(
  "text, is_valid",
  [
    (said(ALL), True),
    (said(ALL) + " and more", True),
    (said((0, 0, 1023, 1023), [127] * 16), True),
    ("", False),
    (said(ALL, [1] * 15), False),
    (said(ALL, [*[1] * 15]) + "<loc0001>", False),
    (said((0, 0, 1023)), False),
    ("x" + said(ALL), False),
    (said((500, 0, 500, 1023)), False),  # No height.
    (said((0, 600, 1023, 500)), False),
    (said((0, 0, 50, 1023)), False),  # int(50 / 1023 * 20) = 0 pixels.
    (said((0, 0, 52, 1023)), True),
    (said((0, 10, 1023, 25)), False),
    (said((0, 0, 1023, 1023, 5)), False),
  ],
)
def test_invalid(text, is_valid):
  got = run(example(text), det_ious=(0.01,))
  assert (got["invalid"], got["total"]) == (1 - is_valid, 1)
  assert is_valid or got["miou"] == 0
  assert not is_valid or got["miou"] > 0


def test_box_without_pixels_is_still_a_box():
  thin = example(said((0, 10, 1023, 25)), 0, 0, H, 1)
  got = run(thin, det_ious=[0.25, 0.5])
  # 15 of 1023 columns, 10 to 25, and 0 to 25.575 (1 / 40): 15 / 25.575 = 0.59.
  assert got == {
    "miou": 0, "boxacc/0.25": 1, "boxacc/0.5": 1, "invalid": 1, "total": 1
  }  # fmt: skip


def test_empty_truth():
  """No division by zero where neither mask nor box have an area."""
  empty = example(said(ALL, NOTHING), 0, 0, 0, 0)
  got = run(empty, example("", 0, 0, 0, 0), model="other")
  assert got == {
    "miou": 0, "boxacc/0.5": 0, "boxacc/0.75": 0, "invalid": 1, "total": 2
  }  # fmt: skip


def test_sizes_may_differ():
  examples = [example(said(ALL)) for _ in range(10)]
  for i, x in enumerate(examples):
    x["objects/mask"] = np.full((5 + i, 7, 3), 255, np.uint8)
    x |= {"prefix": "the cat", "suffix": ""}
  assert run(*examples)["miou"] == 1


def test_short_answers():
  """20 tokens are needed: a config that decodes fewer has no valid answer."""
  short = lambda *args, **kw: answers.decode(*args, max_decode_len=19, **kw)
  assert run(example(said(ALL)), fn=short)["invalid"] == 1


def test_the_real_decoder_is_asked_for_its_weights(monkeypatch):
  monkeypatch.undo()
  with pytest.raises(ValueError, match="nowhere.npz"):
    answers.make(
      segmentation, [example("")], model="nowhere.npz", devices=jax.devices()
    )


def test_shape_of_the_truth():
  flat = {**example(said(ALL)), "objects/mask": np.zeros((H, W), np.uint8)}
  with pytest.raises(ConfigError, match="objects/mask should .*20, 40"):
    run(flat)


def test_file(tmp_path):
  """Answers and scores are written where that is asked for."""
  path = tmp_path / "x.json"
  run(example(said(ALL, LEFT)), outfile=str(path))
  assert json.loads(path.read_text()) == [
    {
      "answer": said(ALL, LEFT),
      "miou": 0.5,
      "boxacc/0.5": 1,
      "boxacc/0.75": 1,
      "invalid": 0,
    }
  ]


@pytest.mark.parametrize("space", [True, False])
def test_space_in_front_of_every_text(space):
  """Sentencepiece may begin with one; answers that do not are as good."""
  name = "gemma(tokensets=('loc', 'seg'), model='shapes')"
  tok = answers.tokenizer.get_tokenizer(name)
  tokens = tok.to_int(said(ALL) + " the ring", eos=True)
  assert len(tokens) == 24 and tok.to_str(tokens[:1]) == ""
  tokens = tokens[0 if space else 1 :]
  tokens += [0] * (30 - len(tokens))

  def decode(state, batch, **_):
    del state
    rows = np.tile(np.int32(tokens), (len(batch["_mask"]), 1))
    return jax.device_put(rows, batch["_mask"].sharding)

  with jax.transfer_guard("allow"):
    evaluator = answers.make(
      segmentation, [example("")], decode, tokenizer=name
    )
    got = dict(evaluator.run(answers.state()))
  assert (got["miou"], got["invalid"]) == (1, 0)


def test_tokenizer_without_tokens():
  for tokenizer, token in (
    ("byte", "loc0000"),
    ("byte(tokensets=('loc',))", "seg000"),
    ("gemma(tokensets=('seg',), model='shapes')", "loc0000"),
  ):
    with pytest.raises(ConfigError, match=token):
      answers.make(segmentation, [example("")], tokenizer=tokenizer)
    with pytest.raises(AssertionError):
      answers.make(segmentation, [example("")], tokenizer=tokenizer)
