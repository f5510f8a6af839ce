"""The arguments `labels` and `targets`: several labels, and numbers to predict."""

import csv
import importlib
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

import big_vision.configs.common as bvcc
import toy
from big_vision import lookup, pretrained, train
from big_vision.configs import own_data, own_sources, quickstart
from big_vision.datasets import core
from big_vision.pretrained import regressor
from big_vision.tools import predict
from big_vision.training import cli, config_check

pytestmark = [
  pytest.mark.tf,
  pytest.mark.usefixtures("quick_compilation"),
]

NAMES = ["red", "green", "blue"]
N = 40


@pytest.fixture(scope="module")
def table(tmp_path_factory):
  """CSV file of pictures whose colors are their labels; and its rows."""
  root = tmp_path_factory.mktemp("data")
  rng = np.random.default_rng(0)
  rows = []
  for i in range(N):
    flags = rng.random(3) < 0.5
    pixels = rng.integers(0, 60, (20, 24, 3)) + 150 * flags
    image = pixels.astype(np.uint8)
    Image.fromarray(image).save(root / f"{i:02d}.png")
    row = dict(zip(NAMES, flags.astype(int).tolist(), strict=True))
    row["file"] = f"{i:02d}.png"
    row["tags"] = ";".join(np.array(NAMES)[flags])
    row["age"] = 20 + 0.1 * image[..., 0].mean()
    row["price"] = 2e4 * image[..., 1].mean()
    rows.append(row)
  with open(root / "t.csv", "w", newline="") as f:
    out = csv.DictWriter(f, rows[0])
    out.writeheader()
    out.writerows(rows)
  with open(root / "t.jsonl", "w") as f:
    for row in rows:
      row = {**row, "image": row["file"], "tags": row["tags"].split(";")}
      row["tags"] = [x for x in row["tags"] if x]
      f.write(json.dumps(row) + "\n")
  return root / "t.csv", {row["file"]: row for row in rows}


def find(arg):
  return own_sources.find(bvcc.parse_arg(arg, **own_data.ARGS))


def get_config(name, arg):
  module = importlib.import_module(f"big_vision.configs.{name}")
  return module.get_config(arg)


def test_names_in_arguments():
  parse = lambda arg: bvcc.parse_arg(arg, probe=False, **own_data.ARGS)
  for text in ("a,b,probe", "a+b,probe=True", "a,probe,split=b"):
    arg = parse(f"targets={text}")
    assert arg.probe
    assert arg.targets == ("a" if "split" in text else "a+b")
  with pytest.raises(ValueError, match="Unhandled config args remain: {'b'"):
    parse("label=a,b")
  rest, own = own_data.split_arg("runlocal,source=csv,targets=a,b,path=x")
  assert rest == "runlocal"
  assert (own.targets, own.path) == ("a+b", "x")


def test_several_labels(table):
  path, rows = table
  for columns, order in (("tags", sorted(NAMES)), ("red,green,blue", NAMES)):
    own = find(f"source=csv,path={path},labels={columns}")
    assert own.kind == "labels"
    assert (own.num_classes, own.num_train) == (3, 36)
    source = core.get(**own.train)
    assert source.class_names == order
    for x in source.get_tfdata(ordered=True).as_numpy_iterator():
      names = {order[i] for i in x["label"]}
      assert names == {n for n in NAMES if rows[x["file_name"].decode()][n]}
    held_out = core.get(**own.held_out["val"])
    assert held_out.total_examples == 4
    assert held_out.class_names == order
  jsonl = find(f"source=jsonl,path={path.with_suffix('.jsonl')},labels=tags")
  assert core.get(**jsonl.held_out["val"]).class_names == sorted(NAMES)


def test_targets(table):
  path, rows = table
  own = find(f"source=csv,path={path},targets=age,price")
  assert own.kind == "targets"
  assert (own.num_classes, own.num_train) == (2, 36)
  names = [
    x["file_name"].decode()
    for x in core.get(**own.train).get_tfdata(ordered=True).as_numpy_iterator()
  ]
  values = [[rows[n]["age"], rows[n]["price"]] for n in names]
  # Of what is trained with, not of all.
  np.testing.assert_allclose(own.mean, np.mean(values, axis=0), rtol=1e-5)
  np.testing.assert_allclose(own.std, np.std(values, axis=0), rtol=1e-5)
  own = find(f"source=csv,path={path},targets=age,normalize=False")
  assert own.mean is own.std is None


@pytest.mark.parametrize(
  "arg, message",
  [
    ("labels=tags,label=red", "args label and labels: give one of them"),
    ("labels=tags,targets=age", "args labels and targets: give one"),
    ("targets=age,num_classes=3", "numbers without classes; leave it out"),
    ("targets=tags", "'tags' has .* in line 2 of .*write a number"),
    ("labels=red,age", "'age' has .* in line 2 of .*write 1 for"),
    ("targets=age,prize", "columns file and age and prize; it has"),
    ("targets=+", "write names of columns, such as targets=a,b"),
    ("targets=constant", "is 1 in all examples to train on"),
  ],
)
def test_errors(table, tmp_path, arg, message):
  path, rows = table
  if "constant" in arg:
    path = tmp_path / "t.csv"
    lines = [f"{table[0].parent}/{file},1" for file in rows]
    path.write_text("\n".join(["file,constant", *lines]))
  with pytest.raises(lookup.ConfigError, match=message) as e:
    find(f"source=csv,path={path},{arg}")
  assert "\n" not in str(e.value)


def test_other_delimiters_and_splits(table, tmp_path):
  path = tmp_path / "t.csv"
  rows = [
    f"{table[0].parent}/{file};{x['tags'].replace(';', '|')};{i % 4 == 0}"
    for i, (file, x) in enumerate(table[1].items())
  ]
  text = "\n".join(["file;tags;split", *rows])
  path.write_text(text.replace("True", "val").replace("False", "train"))
  own = find(f"source=csv,path={path},labels=tags")
  assert (own.num_classes, own.num_train) == (3, 30)
  assert own.held_out["val"]["split"] == "val"


def test_one_label_in_a_column_of_one_letter(table, tmp_path):
  path = tmp_path / "t.csv"
  lines = [f"{table[0].parent}/{f},{x['red']}" for f, x in table[1].items()]
  path.write_text("\n".join(["file,y", *lines]))
  own = find(f"source=csv,path={path},label=y")
  assert own.kind == "label" and own.num_classes == 2
  assert "multi_label" not in own.train


def test_sources_and_recipes_without_them(table):
  path, _ = table
  folder = path.parent
  for arg, message in (
    (f"source=folder,path={folder},labels=x", "csv, jsonl and hf do"),
    ("targets=age", "is about data of your own: add source="),
    (f"source=jsonl,path={folder}/t.jsonl,label=tags", "write labels=tags"),
  ):
    with pytest.raises(lookup.ConfigError, match=message):
      find(arg)
  own = f"source=csv,path={path},targets=age"
  for name, arg in (
    ("load_and_eval", f"name=vit_i1k,{own}"),
    ("proj.distill.bit_i1k", own),
  ):
    with pytest.raises(lookup.ConfigError, match="takes one label per picture"):
      get_config(name, arg)


@pytest.mark.parametrize(
  "name",
  [
    "transfer",
    "quickstart",
    "vit_i21k",
    "nfnet_i1k",
    "bit_i1k",
    "proj.flexivit.i21k_sup",
    "proj.gsam.vit_i1k_gsam_no_aug",
  ],
)
@pytest.mark.parametrize("kind", ["labels=tags", "targets=age,price"])
def test_configs(table, name, kind):
  arg = f"source=csv,path={table[0]},{kind}"
  arg = f"model=vit-s16,fewshot,{arg}" if name == "transfer" else arg
  config = get_config(name, arg)
  num, loss, type_, op = (3, "sigmoid_xent", "multilabel", "onehot(3")
  if "targets" in kind:
    num, loss, type_, op = 2, "mse", "regression", "standardize(["
  assert (config.num_classes, config.loss) == (num, loss)
  assert op in config.input.pp
  assert config.evals and not config.evals.get("fewshot")
  for cfg in config.evals.values():
    assert cfg.type == type_ and op in cfg.pp_fn and cfg.loss_name == loss
  if name in ("transfer", "quickstart", "proj.flexivit.i21k_sup"):
    config_check.check(config)


def run(table, workdir, kind, **kw):
  """Trains a tiny model on 36 pictures, evaluates on all."""
  config = quickstart.get_config(f"source=csv,path={table[0]},val=4,{kind}")
  with config.unlocked(), config.ignore_type():
    config.total_steps = 30
    config.total_epochs = None
    config.update(log_training_steps=30, ckpt_percent=1.0, lr=3e-3)
    config.ckpt_steps = None
    config.input.batch_size = 16
    config.schedule = dict(warmup_steps=3, decay_type="cosine")
    config.model.update(width=32, depth=1, mlp_dim=32, num_heads=2)
    config.mixup.p = 0.0
    config.evals.val.data.split = "all"
    config.evals.val.update(log_percent=1.0, log_epochs=None)
    config.update(kw)
  cli.train(train.build, config, str(workdir))
  return toy.rows(workdir)[30]


def predicted(workdir, paths, capsys, *args):
  """Rows of the command."""
  assert predict.main(["--from", str(workdir), *args, *map(str, paths)]) == 0
  return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_predicts_several_labels(table, tmp_path, capsys):
  with jax.default_matmul_precision("highest"):
    row = run(table, tmp_path, "labels=tags", keep_best="val/mAP")
  root, names = table[0].parent, sorted(NAMES)
  paths = [root / file for file in table[1]]
  model = pretrained.load(tmp_path)
  p = model.probabilities(paths)
  y = np.array([[x[n] for n in names] for x in table[1].values()])
  want = dict(
    mAP=metrics.average_precision_score(y, p),
    f1_micro=metrics.f1_score(y, p >= 0.5, average="micro"),
    f1_macro=metrics.f1_score(y, p >= 0.5, average="macro", zero_division=0),
    auroc=metrics.roc_auc_score(y, p),
  )
  for name, value in want.items():
    assert row[f"val/{name}"] == pytest.approx(value, abs=0.01), name
  assert want["auroc"] > 0.7  # It has learned something.
  per_class = (tmp_path / "val_per_class.csv").read_text().splitlines()
  assert [line.split(",")[0] for line in per_class[1:]] == names
  data = json.loads((tmp_path / "data.json").read_text())
  assert data["class_names"] == names and "targets" not in data

  threshold = float(np.median(p))
  for found, given in zip(
    model.predict(paths, threshold=threshold), p, strict=True
  ):
    assert {x.label for x in found} == set(np.flatnonzero(given >= threshold))
    assert [x.probability for x in found] == sorted(
      (x.probability for x in found), reverse=True
    )
  assert all(len(x) == 1 for x in model.predict(paths, topk=1, threshold=0))
  assert all(len(x) == 3 for x in model.predict(paths))
  with pytest.raises(ValueError, match="threshold=50: it should be between"):
    model.predict(paths, threshold=50)
  rows = predicted(tmp_path, paths, capsys, "--threshold", str(threshold))
  assert [*rows[0]] == ["picture", "labels", "probabilities", "error"]
  for line, found in zip(
    rows, model.predict(paths, threshold=threshold), strict=True
  ):
    assert line["labels"] == ";".join(x.name for x in found)
    given = [float(x) for x in line["probabilities"].split(";") if x]
    np.testing.assert_allclose(given, [x.probability for x in found], atol=1e-4)
  args = ["--from", str(tmp_path), "--threshold", "5", str(paths[0])]
  assert predict.main(args) == 1
  assert "--threshold=5.0 should be a prob" in capsys.readouterr().err


@pytest.mark.parametrize(
  "columns", ["age,price", pytest.param("age", marks=pytest.mark.slow)]
)
def test_predicts_targets(table, tmp_path, capsys, columns):
  row = run(table, tmp_path, f"targets={columns}", keep_best="val/rmse")
  names = columns.split(",")
  paths = [table[0].parent / file for file in table[1]]
  model = pretrained.load(tmp_path)
  assert isinstance(model, pretrained.Regressor)
  assert model.target_names == tuple(names)
  values = model.values(paths)
  y = np.array([[x[n] for n in names] for x in table[1].values()])
  want = dict(
    mae=metrics.mean_absolute_error(y, values),
    r2=metrics.r2_score(y, values),
    rmse=np.sqrt(((y - values) ** 2).mean(axis=0)).mean(),
  )
  if len(names) > 1:
    each = metrics.r2_score(y, values, multioutput="raw_values")
    want |= {f"{n}/r2": x for n, x in zip(names, each, strict=True)}
  for name, value in want.items():
    assert row[f"val/{name}"] == pytest.approx(value, rel=0.02, abs=0.02), name
  assert want["r2"] > 0.3  # It has learned something.
  assert model.features(paths[:1]).shape == (1, 32)

  data = json.loads((tmp_path / "data.json").read_text())
  assert data["targets"]["names"] == names
  assert np.shape(data["targets"]["mean"]) == (len(names),)
  found = model.predict(paths)
  assert [*found[3]] == names
  np.testing.assert_allclose([*found[3].values()], values[3], rtol=1e-6)
  rows = predicted(tmp_path, paths, capsys)
  assert [*rows[0]] == ["picture", *names, "error"]
  for line, value in zip(rows, values, strict=True):
    np.testing.assert_allclose(
      [float(line[n]) for n in names], value, rtol=1e-4
    )
  args = [
    "--from",
    str(tmp_path),
    "--format",
    "jsonl",
    str(paths[0]),
    "/no.png",
  ]
  assert predict.main(args) == 1
  first, second = map(json.loads, capsys.readouterr().out.splitlines())
  assert first["values"] == pytest.approx(found[0], rel=1e-4)
  assert second["error"]
  for flag in (["--topk", "2"], ["--threshold", "0.5"], ["--text", "a"]):
    assert predict.main(["--from", str(tmp_path), *flag, str(paths[0])]) == 1
    assert "age" in capsys.readouterr().err
  # Without the file, from the config.
  assert regressor.describe(model.config) == data["targets"]
