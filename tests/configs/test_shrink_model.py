"""A tiny model, and another tokenizer, in any config of PaliGemma."""

import ml_collections as mlc
import pytest

from big_vision.configs.proj.paligemma import demo
from big_vision.configs.proj.paligemma.transfers import common, forkme

pytestmark = pytest.mark.tf

OTHER = 'gemma(tokensets=("loc", "seg"), model="other.model")'
OWN = "train=a/train.jsonl,val=a/val.jsonl,res=32,text_len=16"


def with_tokenizer(pp, tokenizer):
  """As text: all ops are written by `common.tok`."""
  count = pp.count(repr(common.TOKENIZER))
  assert count == 3  # Of the prompt, of what is between, of the answer.
  return pp.replace(repr(common.TOKENIZER), repr(tokenizer))


@pytest.mark.parametrize("arg", ["", ",size=,lora=4", ",pack=4"])
def test_shrink_model(arg):
  before, after = (forkme.get_config(OWN + arg) for _ in range(2))
  demo.shrink_model(after, lr=0.5)
  assert after.model.to_dict() == dict(img=demo.IMG, llm=demo.LLM)
  assert "model_init" not in after and "lora" not in after
  assert after.lr == 0.5
  assert after.input.pp == with_tokenizer(before.input.pp, demo.TOKENIZER)
  for name, cfg in before.evals.items():
    want = cfg.to_dict()
    want["pp_fn"] = with_tokenizer(cfg.pp_fn, demo.TOKENIZER)
    if "tokenizer" in cfg:
      want["tokenizer"] = demo.TOKENIZER
    assert after.evals[name].to_dict() == want
  assert after.evals["val/store"].tokenizer == demo.TOKENIZER
  same = set(before) - {"model", "model_init", "lora", "input", "evals", "lr"}
  assert {k: after[k] for k in same} == {k: before[k] for k in same}


def test_tokenizer_of_a_mixture():
  """And in the first argument, in any spelling; other texts are no matter."""
  pp = (
    'strfmt("tok(model) | {x}", outkey="prefix")|tok("a", 5, key="prefix")'
    "|tok(key='b',model='c')|lower"
  )
  want = (
    f'strfmt("tok(model) | {{x}}", outkey="prefix")|tok({OTHER!r}, 5, '
    f"key='prefix')|tok(key='b', model={OTHER!r})|lower"
  )
  config = mlc.ConfigDict(
    dict(
      input=dict(data=dict(x=1, y=2), x=dict(pp=pp), y=dict(pp="lower")),
      evals=dict(e=dict(pp_train=pp, pred="decode")),
    )
  )
  demo.set_tokenizer(config, OTHER)
  assert config.input.x.pp == config.evals.e.pp_train == want
  assert config.input.y.pp == "lower"
  assert config.evals.e.pred == "decode" and "tokenizer" not in config.evals.e


def test_without_evaluators():
  config = mlc.ConfigDict(
    dict(
      input=dict(data=dict(name="bv:jsonl"), pp="tok('a', key='x')"),
      model=dict(img=dict(variant="So400m/14"), llm=dict(variant="gemma_2b")),
    )
  )
  demo.shrink_model(config)
  assert config.input.pp == f"tok({demo.TOKENIZER!r}, key='x')"
  assert "variant" not in config.model.img
