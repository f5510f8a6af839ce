"""The configs of PaliGemma: as they are stored, their texts, their tiny form."""

import gzip
import importlib
import json
import pathlib

import numpy as np
import pytest

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import (
  common,
  forkme,
  vertexai_l4,
)
from big_vision.training import config_check

FILE = pathlib.Path(__file__).parents[1] / "golden/configs_generative.json.gz"
GOLDEN = json.loads(gzip.decompress(FILE.read_bytes()))
CASES = [
  (name.removeprefix("proj.paligemma.transfers."), arg, want)
  for name, args in GOLDEN.items()
  if "paligemma" in name
  for arg, want in args.items()
]


def plain(config):
  """A config as JSON stores it: without tuples."""
  return json.loads(json.dumps(config.to_dict()))


@pytest.mark.parametrize("name, arg, want", CASES)
def test_same_as_stored(name, arg, want):
  module = importlib.import_module(
    f"big_vision.configs.proj.paligemma.transfers.{name}"
  )
  assert plain(module.get_config(arg or None)) == want


def test_both_are_stored():
  assert {name for name, *_ in CASES} >= {"forkme", "vertexai_l4"}


def test_arguments():
  c = forkme.get_config("res=448,size=10b,text_len=64,batch_size=8")
  assert c.model_init == "pt_10b_448" and c.model.llm.variant == "gemma2_9b"
  assert c.input.batch_size == 8 and "tolen(65, " in c.input.pp
  assert "resize(448" in c.evals["val/store"].pp_fn
  assert c.evals["val/store"].pred_kw.max_decode_len == 64
  c = forkme.get_config("size=,run_local")
  assert c.model_init == "pt_224" and c.model.llm.variant == "gemma_2b"
  assert "final_logits_softcap" not in c.model.llm
  assert c.input.batch_size == 2
  with pytest.raises(ValueError, match=r"PaliGemma 2.*'4b'.*3b"):
    forkme.get_config("size=4b")


@pytest.mark.parametrize("module", [forkme, vertexai_l4])
def test_frozen_parts(module):
  names = lambda arg: [name for name, s in module.get_config(arg).schedule if s]
  assert names(None) == ["img/.*", "llm/.*"]
  assert names("freeze_vit") == ["llm/.*"]
  assert names("freeze_llm=True") == ["img/.*"]


def test_data_of_your_own():
  c = forkme.get_config("train=a/t.jsonl,val=b/v.jsonl,lora=16")
  assert c.input.data.to_dict() == dict(
    name="bv:jsonl", fname="a/t.jsonl", fopen_keys={"image": "a/"}
  )
  assert c.evals["val/pplx"].data.fopen_keys.image == "b/"
  assert c.lora.rank == 16 and "lora" not in forkme.get_config()
  assert 'setdefault("prefix", "caption en")' in c.input.pp
  assert not forkme.get_config("train=a/t.jsonl").evals


def test_tok():
  assert common.tok(key="prefix", bos="yes") == (
    "tok(key='prefix', bos='yes', model='gemma(tokensets=(\"loc\", \"seg\"))')"
  )
  assert common.tok(text="\n", model="x") == r"tok(text='\n', model='x')"


@pytest.fixture(scope="module")
def ids():
  """`text -> tokens` of the demo's tokenizer, whose ids are known to few."""
  from big_vision.pp import tokenizer
  from big_vision.pp.proj.paligemma import ops  # noqa: F401

  tok = tokenizer.get_tokenizer(demo.TOKENIZER)
  assert tok.vocab_size == demo.VOCAB_SIZE
  return tok


def run(pp, **features):
  """Applies ops to texts and an image."""
  from big_vision.pp import builder, ops_general, ops_text  # noqa: F401
  from big_vision.pp.proj.paligemma import ops  # noqa: F401
  from big_vision.tf import tf

  data = {"image": tf.zeros([2, 2, 3]), **features}
  out = builder.get_preprocess_fn(pp, log_data=False)(data)
  return {k: np.asarray(x).tolist() for k, x in out.items() if k != "image"}


@pytest.mark.tf
def test_sequences_of_training(ids):
  before = ['strfmt("what is it?", outkey="prefix")', 'copy("x", "suffix")']
  got = run(
    common.combine_and_keep_train(16, before=before, tokenizer=demo.TOKENIZER),
    x="a ring",
  )
  prefix = [ids.bos_token, *ids.to_int("what is it?"), *ids.to_int("\n")]
  suffix = [*ids.to_int("a ring"), ids.eos_token]
  missing = 17 - len(prefix) - len(suffix)
  assert missing > 0
  zeros, ones = [0] * len(prefix), [1] * len(suffix)
  assert got == {
    "text": prefix + suffix + [0] * missing,
    "mask_ar": zeros + ones + [1] * missing,
    "mask_loss": zeros + ones + [0] * missing,
  }


@pytest.mark.tf
def test_sequences_of_evaluators(ids):
  pp = common.combine_and_keep_eval(
    12, keep=("x",), before=['copy("x", "prefix")'], tokenizer=demo.TOKENIZER
  )
  got = run(pp, x="a ring")
  prefix = [ids.bos_token, *ids.to_int("a ring"), *ids.to_int("\n")]
  missing = 12 - len(prefix)
  assert got == {
    "text": prefix + [0] * missing,
    "mask_ar": [0] * len(prefix) + [1] * missing,
    "mask_input": [1] * len(prefix) + [0] * missing,
    "x": "a ring",
  }
  got = run(pp, x="a ring", suffix="ring")
  suffix = ids.to_int("ring")
  num = len(prefix) + len(suffix)
  assert got["text"][:num] == [*prefix, *suffix] and not any(got["text"][num:])
  assert got["mask_ar"] == [0] * len(prefix) + [1] * (12 - len(prefix))
  assert got["mask_input"] == [1] * num + [0] * (12 - num)


@pytest.mark.tf
def test_sequences_that_share_one(ids):
  """As those of training, without padding."""
  before = ['copy("x", "prefix")', 'copy("x", "suffix")']
  kw = dict(before=before, tokenizer=demo.TOKENIZER)
  got = run(common.combine_and_keep_packed(2, **kw), x="a ring")
  padded = run(common.combine_and_keep_train(20, **kw), x="a ring")
  num = len(got["text"])
  assert num < 20 and sorted(got) == sorted(padded)
  assert got == {k: x[:num] for k, x in padded.items()}
  c = forkme.get_config("pack=4,text_len=256")
  lengths = dict.fromkeys(("text", "mask_ar", "mask_loss"), 257)
  assert c.input.pack.to_dict() == {"image": 4, **lengths}
  assert 'reshape([1, 224, 224, 3], key="image")' in c.input.pp


@pytest.mark.tf
@pytest.mark.parametrize("module", [forkme, vertexai_l4])
def test_demo(module):
  c = module.get_config("demo")
  config_check.check(c)
  assert c.model.llm.vocab_size == demo.VOCAB_SIZE
  assert "model_init" not in c
  assert sorted(c.input.data) == sorted(demo.TASKS)
  assert {"val/pplx", "val/vqa", "val/detect", "val/caption"} <= set(c.evals)
