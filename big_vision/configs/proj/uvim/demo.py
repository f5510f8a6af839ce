"""The argument `demo` of UViM's configs: generated pictures of colored shapes.

Does for both stages what `big_vision/configs/demo.py`, whose parts it uses, does
for classification: the dataset `shapes/64`, which knows the class, the instance
and the depth of each pixel, replaces all others, and the models are tiny. Each
stage trains in about 20 minutes on two CPU cores. Crops are milder; the optimizer
is Muon, which needs a third of the steps of Adafactor here; and stage II starts from
random parameters, with fixed positions: there is no pretrained encoder of this size.

Stage II needs stage I:

  python -m big_vision.trainers.proj.uvim.train \
    --config big_vision/configs/proj/uvim/train_coco_panoptic_pretrained.py:demo \
    --config.oracle.model_init STAGE_1_WORKDIR --workdir DIR

Without, it predicts the codes of a random stage I, to see that it runs.
"""

from typing import Any

from big_vision.configs import demo

DATASET = "shapes/64"
SIZE, PATCH = 64, 8  # Pixels.
BATCH_SIZE = 32
TOTAL_STEPS = {1: 1500, 2: 2500}
LR = 2e-3
# Muon for the kernels of blocks; Adam for what is not between features.
MUON = dict(consistent_rms=0.2, b2=0.95)
MUON_RULES = {
  1: ((r"(embedding|head|ctx)_.*", None),),
  2: ((r"EmbedPatches/.*|decoder/LogitsDense/.*", None),),
}
# Crops keep at least this part of the area.
AREA_MIN = 0.7
# Pictures that an evaluator sees, and that are shown.
NUM_EVAL = 256
NUM_SHOWN = 8

# A code for each patch. Up to 5 objects, wall and floor; 0 is none of them.
MODEL_1 = dict(
  input_size=(SIZE, SIZE),
  patch_size=(PATCH, PATCH),
  code_len=(SIZE // PATCH) ** 2,
  dict_size=256,
  codeword_dim=32,
  width=128,
  mlp_dim=512,
  num_heads=4,
  enc_depth=1,
  dec_depth=3,
  posemb="sincos2d",
  # Each picture is seen too few times to learn without codes, too.
  code_dropout="none",
)
CHANNELS = {
  "panoptic": dict(semantics=11, instances=8),
  "depth": dict(depth=64),
  "colorization": dict(color=3),
}
MODEL_2 = dict(
  patches=dict(size=(PATCH, PATCH)),
  input_size=(SIZE, SIZE),
  num_layers=3,
  num_heads=4,
  mlp_dim=512,
  emb_dim=128,
  posemb_type="sincos2d",
)
# What is left of the preprocessing of NYU, whose pictures have another size.
_PP = (
  ("|nyu_eval_crop", ""),
  ("|inception_box|", f"|inception_box(area=({AREA_MIN}, 1.0))|"),
)
_SPLITS = {
  "train[4096:8192]": f"train[:{NUM_EVAL}]",
  "train[:4096]": f"validation[:{NUM_EVAL}]",
  "validation": f"test[:{NUM_EVAL}]",
}


def apply(config: Any, task: str, stage: int) -> None:
  """Makes a config of UViM small, in place.

  Args:
    config: ConfigDict, complete.
    task: "panoptic", "depth" or "colorization".
    stage: 1 or 2.
  """
  with config.ignore_type():
    oracle = config if stage == 1 else config.oracle
    oracle.model.update(MODEL_1)
    channels = {k: (n, PATCH**2) for k, n in CHANNELS[task].items()}
    oracle.model.inputs = oracle.model.outputs = channels
    if stage == 2:
      config.oracle.model_init = ""
      config.model.update(MODEL_2)
      del config.model_init
      del config.lr_mults  # Nothing has learned before.

    config.input.data = dict(name=DATASET, split="train")
    config.input.batch_size = BATCH_SIZE
    config.input.shuffle_buffer_size = 4096
    _change_pp(config.input)
    # Its network has to be downloaded, and judges photographs.
    if "colorization_val_coltran_fid" in config.evals:
      del config.evals.colorization_val_coltran_fid
    for cfg in config.evals.values():
      _change_eval(cfg)
    config.evals.pictures = _pictures(config.evals.val)
    demo.shorten(config, TOTAL_STEPS[stage])
    config.lr = LR
    config.optax_name = "big_vision.muon"
    config.optax = dict(MUON, rules=MUON_RULES[stage])


def _change_pp(cfg):
  """Changes the preprocessing of training or of an evaluator."""
  demo.change_pp(cfg, SIZE)
  key = "pp" if "pp" in cfg else "pp_fn"
  for old, new in _PP:
    cfg[key] = cfg[key].replace(old, new)


def _change_eval(cfg):
  """Changes the data, preprocessing and interval of an evaluator."""
  data = cfg.get("data", cfg)
  data.split = _SPLITS[data.get("split", "validation")]
  data["name" if "data" in cfg else "dataset"] = DATASET
  cfg.batch_size = 64
  _change_pp(cfg)
  demo.set_duration(cfg, "log", log_percent=0.5)


def _pictures(val):
  """Makes the evaluator that shows a few pictures and their labels."""
  return dict(
    type="proj.uvim.pictures",
    data=dict(name=DATASET, split=f"validation[:{NUM_SHOWN}]"),
    pp_fn=val.pp_fn,
    num=NUM_SHOWN,
    log_percent=0.25,
  )
