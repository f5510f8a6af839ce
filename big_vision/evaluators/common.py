"""Defines evaluators; offers what they share under one name.

An evaluator is a module with `API = "jit"` and a class `Evaluator`:

  Evaluator(predict_fn, *, batch_size, devices, **own).run(train_state)

builds its data once and yields `(metric name, float)` at every run, or pictures,
`(name, pictures.Picture)`, which the run writes into its workdir. Batches
have `_mask` [B], False on padding, which no metric may depend on. An evaluator
that writes files takes the keywords `workdir` (output folder of the run, "" for
none) and `get_step` (returns the current step of the run). To have its
arguments checked before a run starts, an evaluator may declare
  - the class attribute `forwards`: the function that receives `**kw`;
  - the module function `data_sources(cfg)`: list of `(config key, data)` of
    the datasets it opens; by default its argument `data`;
  - the module functions `trial` and `inputs`, by which shapes are tried out
    before data is read, see `trial.py`.

`mean.py` is a short example. The code is in `build.py` (evaluators from a
config), `validate.py` (checks of a config), `iteration.py` (batches, results)
and `files.py` (output); the data is opened by `pipeline/evaluation.py`.
"""

from big_vision.devices import check_batch_size as check_batch_size
from big_vision.evaluators.build import from_config as from_config
from big_vision.evaluators.files import (
  multiprocess_write_json as multiprocess_write_json,
)
from big_vision.evaluators.files import resolve_outfile as resolve_outfile
from big_vision.evaluators.iteration import fetch as fetch
from big_vision.evaluators.iteration import host_order as host_order
from big_vision.evaluators.iteration import process_sum as process_sum
from big_vision.partial import Partial as _CacheablePartial  # noqa: F401
from big_vision.pipeline.evaluation import CACHES as CACHES
from big_vision.pipeline.evaluation import (
  eval_input_pipeline as eval_input_pipeline,
)
