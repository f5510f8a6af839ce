"""Talking in the terminal: lines in, answers out."""

import io

import pytest

from big_vision.trainers.proj.paligemma import run


class Parrot:
  """Answers with the prompt, in two pieces."""

  def __init__(self):
    self.asked = []

  def stream(self, image, prompt, **kw):
    self.asked.append((image, prompt, kw))
    yield prompt[:2]
    yield prompt[2:]


def test_talk():
  model, out = Parrot(), io.StringIO()
  run.talk(
    model, "cat.jpg", ["caption en\n", "\n", " detect cat"], out, max_len=7
  )
  assert out.getvalue() == "caption en\ndetect cat\n"
  assert model.asked == [
    ("cat.jpg", "caption en", {"max_len": 7}),
    ("cat.jpg", "detect cat", {"max_len": 7}),
  ]


def test_flags():
  args = run.parser().parse_args(["--ckpt", "a.npz", "--image", "b.jpg"])
  assert (args.sampler, args.res, args.max_decode_len) == ("greedy", 224, 128)
  assert args.prefill_len == 32 and args.ckpt_dtype is None
  args.res = 0
  with pytest.raises(ValueError, match="--res=0 should be at least 1"):
    run.run(args)


def test_config_of_an_npz_file():
  config = run.config_of("a.npz", 448)
  assert config.model.img.variant == "So400m/14"
  assert config.model.llm.vocab_size == 257152
  assert config.input.pp == "decode|resize(448)|value_range(-1, 1)"
