"""Every method trains the same on 1, 2 and 4 processes; so it does after a restart."""

import pathlib

import pytest

from big_vision.faults import compare, config, runner, schedule, trial, warm

pytestmark = [pytest.mark.tf, pytest.mark.slow]
LAYOUTS = ((1, 4), (2, 2), (4, 1))


@pytest.fixture(scope="module")
def trials(tmp_path_factory, tfds_data_dir):
  """`(trainer, *changes) -> Trials`, which share undisturbed runs."""
  workdir = tmp_path_factory.mktemp("layouts")
  env = runner.environment(str(workdir)) | {"TFDS_DATA_DIR": tfds_data_dir}
  with warm.Server(env) as server:

    def make(trainer, *changes):
      folder = workdir / ("_".join(changes) or "plain").replace("/", "")
      return trial.Trials(
        trainer, str(folder), changes=changes, popen=server.popen,
        patience=600, say=lambda line: None,
      )  # fmt: skip

    yield make


@pytest.mark.parametrize("trainer", config.METHODS)
def test_processes(trials, trainer):
  """The devices are the same four, in other processes: so is each bit."""
  every = trials(trainer)
  one, *others = [every.reference(*layout) for layout in LAYOUTS]
  for other in others:
    assert compare.runs(other, one).nothing


@pytest.mark.parametrize("trainer", ["train", "uvim"])
def test_devices(trials, trainer):
  """With groups of a fixed number, their number does not matter either."""
  every = trials(trainer, "--config.deterministic_reductions=8")
  two, four, eight = [every.reference(*x) for x in ((1, 2), (2, 2), (2, 4))]
  for other in (four, eight):
    found = compare.runs(other, two)
    assert not found.leaves and not found.missing and not found.torn
    # Evaluators sum over the devices that there are.
    assert all(name.startswith("val/") for _, name in found.metrics)
    assert found.largest_metric < 1e-6


def test_restart_on_other_hosts(trials):
  """The next 20 losses after one checkpoint."""
  whole = trials("train").reference(1, 4)
  middle = f"--config.resume={whole}/checkpoint.bv-000000020"
  every = trials("train", middle)
  want, _ = compare.read(f"{whole}/{compare.FILES[0]}")
  for hosts, devices in LAYOUTS:
    folder = pathlib.Path(every.workdir) / f"{hosts}"
    run = every.make_run(str(folder))
    record = run.live(schedule.Life(hosts, devices))
    assert record.finished and record.first_step == 21
    got, _ = compare.read(str(folder / compare.FILES[0]))
    for step in range(21, 41):
      assert got[step]["training_loss"] == want[step]["training_loss"]
