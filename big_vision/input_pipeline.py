"""From a config to global batches: the door to the input pipeline.

  validate(config.input)             what can be told wrong before data is read
  training(config.input, seed=0)     -> (dataset of batches, number of examples)
  evaluation(**config.evals.val)     -> (makes an iterator, batches per pass)
  start_global(dataset, devices)     -> iterator of batches on devices

The order of training data is a pure function of the config: batch n is the same
for any number of hosts, threads and restarts. The exception are datasets where
only preprocessing tells how many examples there are (`post_filter_fn`, `pack`,
`skip_errors`): batches then depend on the number of hosts too, and a restart
preprocesses again what was consumed before.

From there the code reads in this order, all in `big_vision.pipeline`:

  training     opens the datasets of a config and makes batches
  order        seeds, and which rows of a batch a host delivers
  stream       positions -> (epoch, index of an example)
  indexed      the stream of a source with random access
  sequential   that of a source which is read from front to back
  examples     raw -> preprocessed examples, filters
  mixture      several datasets, drawn from with given weights
  packing      several short examples in one sequence
  failures     examples that cannot be preprocessed
  evaluation   every example once, padded
  to_devices   batches of the host -> arrays on devices, with `prefetch`
"""

from big_vision.pipeline.evaluation import (
  bytes_per_example,
  eval_input_pipeline,
  evaluation,
  make_for_inference,
)
from big_vision.pipeline.prefetch import (
  prefetch_iterator,
  threadstart_iterator,
)
from big_vision.pipeline.to_devices import (
  shapes,
  shard_and_put,
  start_global,
  start_input_pipeline,
  start_ragged_input_pipeline,
  tf_to_numpy,
)
from big_vision.pipeline.training import (
  DEFAULT_NUM_PARALLEL_CALLS,
  MEMORY_GB,
  make_for_train,
  training,
)
from big_vision.pipeline.validate import validate

__all__ = [
  "DEFAULT_NUM_PARALLEL_CALLS",
  "MEMORY_GB",
  "bytes_per_example",
  "eval_input_pipeline",
  "evaluation",
  "make_for_inference",
  "make_for_train",
  "prefetch_iterator",
  "shapes",
  "shard_and_put",
  "start_global",
  "start_input_pipeline",
  "start_ragged_input_pipeline",
  "tf_to_numpy",
  "threadstart_iterator",
  "training",
  "validate",
]
