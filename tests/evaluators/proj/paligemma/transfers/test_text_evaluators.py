"""What all evaluators of answers share: configs, checks, processes."""

import json
import os
import runpy

import answers
import jax
import ml_collections as mlc
import numpy as np
import pytest

import process_groups
from big_vision.evaluators import build, trial, validate
from big_vision.evaluators.proj.paligemma.transfers import common, vqa
from big_vision.lookup import ConfigError
from big_vision.pp import ops_general  # noqa: F401  (Registers its ops.)

pytestmark = pytest.mark.tf

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPT = os.path.join(HERE, "transfers_two_processes.py")
ROOT = process_groups.ROOT

NAMES = (
  "chartqa", "coco_caption", "detection", "pope", "rsvqa", "science_qa",
  "segmentation", "storepreds", "tallyqa", "vqa", "vqav2",
)  # fmt: skip


def config(name="vqa", examples=(), **kw):
  answers.SETS["config"] = examples or [
    dict(question_id=i, answer="abc", said="abcdef") for i in range(11)
  ]
  entry = dict(
    type=f"proj.paligemma.transfers.{name}",
    pred="decode",
    pred_kw=dict(max_decode_len=3),
    tokenizer=answers.TOKENIZER,
    data=dict(name="bv:answers", key="config", split="val"),
    pp_fn='copy("tokens", "text")',
    log_steps=1,
  )
  return mlc.ConfigDict(dict(batch_size=8, evals=dict(x={**entry, **kw})))


def test_of_a_config(tmp_path):
  cfg = config()
  validate.validate(cfg, ["decode"], jax.devices())
  ((name, evaluator, _, prefix),) = build.from_config(
    cfg,
    {"decode": answers.decode},
    devices=np.asarray(jax.devices()),
    workdir=str(tmp_path),
    get_step=lambda: 4,
  )
  assert (name, prefix) == ("x", "x/")
  assert dict(evaluator.run(answers.state())) == {
    "acc": 1, "acc_any": 1, "anls": 1, "num": 11
  }  # fmt: skip
  assert len(json.loads((tmp_path / "val.json").read_text())) == 11


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_checked(name):
  validate.validate(config(name), ["decode"], jax.devices())
  both = dict(cache="none", prefetch=2, keep_on_cpu=("a",))
  validate.validate(config(name, **both), ["decode"], jax.devices())
  with pytest.raises(ValueError, match="evals.x.outfil: unknown argument"):
    validate.validate(config(name, outfil="x"), ["decode"], jax.devices())
  with pytest.raises(ValueError, match="config.evals.x.data.*no_such"):
    data = dict(name="bv:no_such")
    validate.validate(config(name, data=data), ["decode"], jax.devices())


def check(cfg, decode):
  shapes = jax.eval_shape(lambda: {"zero": jax.numpy.int32(0)})
  devices = np.asarray(jax.devices())
  trial.check(cfg, {"decode": decode}, shapes, {}, devices)


def reads_text(state, batch, *, devices, eos_token, max_decode_len):
  del devices, eos_token
  return (batch["text"] + state["zero"])[:, :max_decode_len]


def test_shapes_are_tried():
  """With text features, which do not get to devices."""
  check(config(), reads_text)
  with pytest.raises(ConfigError, match="evals.x.pp_fn .*there is no 'text'"):
    check(config(pp_fn=""), reads_text)
  wrong = lambda *args, **kw: 1.5 * reads_text(*args, **kw)
  with pytest.raises(ConfigError, match="integers .*float32.*pred='decode'"):
    check(config(), wrong)


def test_functions_that_look_at_tokens_are_tried_up_to_there():
  def decode(state, batch, **kw):
    tokens = reads_text(state, batch, **kw)
    while not np.asarray((tokens == kw["eos_token"]).any()):
      tokens += 1
    return tokens

  check(config(), decode)
  with pytest.raises(ConfigError, match="there is no 'text'"):
    check(config(pp_fn=""), decode)


def test_more_features_may_stay_on_the_host():
  seen = []

  def decode(state, batch, **kw):
    seen.append(batch["note"][0])
    return answers.decode(state, batch, **kw)

  examples = [dict(question_id=1, answer="a", said="a", note="some text")]
  got = answers.run(vqa, examples, decode, keep_on_cpu=["note"])
  assert got["acc"] == 1 and seen == ["some text"]
  with pytest.raises(TypeError, match="keep_on_cpu"):
    answers.run(vqa, examples, decode)


def test_every_evaluation_starts_at_the_first_example():
  evaluator = answers.make(
    vqa, [dict(question_id=i, answer="a", said="a") for i in range(11)]
  )
  for _ in range(2):
    results = evaluator.results(answers.state())
    assert [r.record["question_id"] for r in results] == list(range(11))


def test_no_examples(monkeypatch):
  evaluator = answers.make(vqa, [dict(question_id=1, answer="a", said="a")])
  monkeypatch.setattr(evaluator, "_examples", lambda state: iter(()))
  with pytest.raises(ValueError, match="no examples to evaluate"):
    list(evaluator.run(answers.state()))


def test_helpers():
  result = common.Result
  results = [
    result({"b": 1.0, "a": 0.5}, {}), result({}, {}), result({"b": 0.0}, {})
  ]  # fmt: skip
  assert list(common.means(results).items()) == [("b", 0.5), ("a", 0.5)]
  assert common.means([]) == {}
  results = [
    result({"acc": 1.0, "acc/x": 1.0}, {}), result({"acc": 0.0}, {}),
    result({"acc": 0.5, "acc/y": 0.5}, {}), result({}, {}),
  ]  # fmt: skip
  assert list(common.means_by_group(results, ("z", "y", "x"))) == [
    ("acc", 0.5), ("acc/y", 0.5), ("num/y", 1), ("acc/x", 1), ("num/x", 1)
  ]  # fmt: skip
  assert list(common.means_by_group([result({}, {})], ("x",))) == []
  assert common.texts(np.array(["A", "b"]), str.lower) == ["a", "b"]
  assert common.texts(np.str_("A")) == ["A"] == common.texts("A")
  assert common.texts(()) == []
  assert common.plain(np.int32(3)) == 3
  assert common.plain(np.array(["a"])) == ["a"]
  assert json.dumps(common.plain(np.str_("a"))) == '"a"'


@pytest.mark.multidevice
@pytest.mark.slow
def test_two_processes(tmp_path):
  """Metrics and files are those of one process, in the order of the dataset."""
  folder = lambda name: str(tmp_path / name)
  alone = runpy.run_path(SCRIPT)["results"](folder("one"))
  with process_groups.coordinator_address() as address:
    process_groups.run(
      [[SCRIPT, str(i), address, str(tmp_path)] for i in range(2)],
      envs=[{"PYTHONPATH": os.pathsep.join([ROOT, f"{ROOT}/tests"])}] * 2,
      timeout=300,
    )
  for i in range(2):
    assert json.loads((tmp_path / f"{i}.json").read_text()) == alone
  files = sorted(os.listdir(folder("one")))
  assert len(files) == 10
  assert sorted(os.listdir(folder("two"))) == files  # No parts are left.
  for name in files:
    one, two = (
      json.loads((tmp_path / k / name).read_text()) for k in ("one", "two")
    )
    assert one == two and len(one) >= 13
