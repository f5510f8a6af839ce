"""The names of earlier versions."""

from big_vision.evaluators import common


def test_old_names():
  """Users' evaluators find everything in `common`."""
  from big_vision.evaluators import build, files, iteration
  from big_vision.pipeline import evaluation

  for module, names in (
    (build, ["from_config"]),
    (files, ["resolve_outfile", "multiprocess_write_json"]),
    (iteration, ["fetch", "host_order", "process_sum"]),
    (evaluation, ["CACHES", "eval_input_pipeline"]),
  ):
    for name in names:
      assert getattr(common, name) is getattr(module, name)
  fn = common._CacheablePartial(dict, {"a": 1, "b": 2})
  assert fn(b=3, c=4) == {"a": 1, "b": 3, "c": 4}
