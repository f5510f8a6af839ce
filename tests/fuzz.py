"""Damages inputs of all readers, many times: crashes, hangs, unnamed errors.

  python tests/fuzz.py --seed 0 --inputs 10000

`untrusted_readers.py` lists the readers and `docs/untrusted.md` the results. The
same seed makes the same inputs. Each is read in a process of its own kind, with
limits of memory and time; what breaks them, or ends in an error that does not say
what is wrong, is kept in `--out`.
"""

import argparse
import collections
import contextlib
import logging
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings

import psutil

ROOT = pathlib.Path(__file__).parent.parent
# The child, which is spawned, finds them in the same way.
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import untrusted_readers as readers  # noqa: E402

MAX_PIXELS = 1 << 24
_START_SECONDS = 3600  # TensorFlow, on a busy machine.


def mutate(data: bytes, words: tuple[bytes, ...], rng: random.Random) -> bytes:
  """Damages a content.

  Args:
    data: valid content.
    words: to be put in.
    rng: `random.Random`.

  Returns:
    The damaged content.
  """
  out = bytearray(data)
  for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
    kind = rng.randrange(8)
    at = rng.randrange(len(out) + 1)
    some = rng.randrange(1, 40)
    if kind == 0 and out:  # A bit.
      out[at % len(out)] ^= 1 << rng.randrange(8)
    elif kind == 1 and out:  # A byte.
      out[at % len(out)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x30, 0x39))
    elif kind == 2:  # Cut off.
      del out[at:]
    elif kind == 3:  # A piece is missing.
      del out[at : at + some]
    elif kind == 4:  # A piece twice.
      out[at:at] = out[at : at + some] * rng.choice((1, 2, 50))
    elif kind == 5 and words:  # A word over what is there.
      word = rng.choice(words)
      out[at : at + len(word)] = word
    elif kind == 6 and words:  # A word more.
      out[at:at] = rng.choice(words)
    elif kind == 7 and len(out) > 4:  # A length.
      size = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, len(out)))
      out[at : at + 4] = size.to_bytes(4, rng.choice(("little", "big")))
  if out[257:262] == b"ustar" and rng.random() < 0.8:
    _mend_checksums(out)
  return bytes(out)


def _mend_checksums(tar):
  """Makes the headers of a tar file pass their own check."""
  for begin in range(0, len(tar) - 511, 512):
    if tar[begin + 257 : begin + 262] == b"ustar":
      header = tar[begin : begin + 512]
      header[148:156] = b" " * 8
      tar[begin + 148 : begin + 156] = b"%06o\0 " % sum(header)


def make_input(name, seed, number):
  """Makes the damaged content with a number, of a reader."""
  reader = readers.ALL[name]
  rng = random.Random(f"{seed}/{name}/{number}")
  return mutate(rng.choice(reader.seeds()), reader.words, rng)


def _work(pipe, memory):
  """Reads inputs: (name, seed, number) -> (what happened, details, seconds)."""
  os.environ["BV_MAX_IMAGE_PIXELS"] = str(MAX_PIXELS)
  os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
  logging.disable(logging.ERROR)
  warnings.simplefilter("ignore")
  folder = pathlib.Path(tempfile.mkdtemp())
  warm = set()
  while (job := pipe.recv()) is not None:
    name, seed, number = job
    reader, place = readers.ALL[name], folder / f"in{number}"
    if name not in warm:  # Imports, and what is made once, are not measured.
      warm.add(name)
      resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
      path = readers.write(reader, reader.seeds()[0], folder / "seed")
      with contextlib.suppress(Exception):
        if name in readers.READERS:  # The others are faults.
          reader.read(path)
      limit = _virtual_memory() + memory
      resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    path = readers.write(reader, make_input(name, seed, number), place)
    pipe.send("ready")
    begin = time.process_time()
    what, details = "read", ""
    try:
      reader.read(path)
    except BaseException as e:
      what = "refused"
      if reason := readers.problem(e, path, reader):
        what = "memory" if isinstance(e, MemoryError) else "unnamed"
        details = f"{reason}\n{''.join(traceback.format_exception(e))[-3000:]}"
    pipe.send((what, details, time.process_time() - begin))
    shutil.rmtree(place, ignore_errors=True)
  shutil.rmtree(folder, ignore_errors=True)


def _virtual_memory():
  pages = pathlib.Path("/proc/self/statm").read_text().split()[0]
  return int(pages) * resource.getpagesize()


class Child:
  """A process that reads inputs; it is started again when it has died.

  Args:
    memory: bytes that an input may take.
    seconds: CPU time that it may take; a sixtieth of what it may wait.
  """

  def __init__(self, memory=2 << 30, seconds=20):
    self._memory, self._seconds = memory, seconds
    self._process = None

  def read(self, job):
    """Returns (what happened, details, CPU seconds)."""
    if self._process is None:
      context = multiprocessing.get_context("spawn")
      self._pipe, other = context.Pipe()
      self._process = context.Process(
        target=_work, args=(other, self._memory), daemon=True
      )
      self._process.start()
      other.close()
    try:
      self._pipe.send(job)
      if not self._pipe.poll(_START_SECONDS):
        raise RuntimeError("The child does not start.")
      self._pipe.recv()  # It is ready: importing may take minutes.
      if self._answers():
        return self._pipe.recv()
      self.close()
      return "hang", f"no answer in {self._seconds} CPU seconds", self._seconds
    except (EOFError, ConnectionError):
      self._process.join()
      code = self._process.exitcode
      self._process = None
      return "crash", f"the process ended with status {code}", 0.0

  def _answers(self):
    """Waits; of a busy machine the process may get little."""
    times = psutil.Process(self._process.pid).cpu_times
    deadline = time.monotonic() + 60 * self._seconds
    begin = sum(times()[:2])
    while time.monotonic() < deadline:
      if self._pipe.poll(1):
        return True
      try:
        if sum(times()[:2]) - begin > self._seconds:
          return False
      except psutil.NoSuchProcess:
        return True  # To receive then fails.
    return False

  def close(self):
    """Ends the process."""
    if self._process is not None:
      self._process.kill()
      self._process.join()
      self._process = None


def run(name, seed, numbers, child, out=None):
  """Reads damaged inputs of one reader.

  Args:
    name: of the reader.
    seed: int.
    numbers: range, of the inputs.
    child: `Child`.
    out: folder for the inputs that went wrong, or None.

  Returns:
    (Counter of "read", "refused", "crash", "hang", "memory", "unnamed"; the most
    CPU seconds; list of (number, what, details) of those that went wrong).
  """
  counts, slowest, wrong = collections.Counter(), 0.0, []
  for number in numbers:
    what, details, taken = child.read((name, seed, number))
    counts[what] += 1
    slowest = max(slowest, taken)
    if what in ("read", "refused"):
      continue
    wrong.append((number, what, details))
    if out is not None:
      out.mkdir(parents=True, exist_ok=True)
      file = out / f"{name}-{seed}-{number}"
      file.write_bytes(make_input(name, seed, number))
      file.with_name(f"{file.name}.txt").write_text(
        f"{what}: {details}", errors="backslashreplace"
      )
  return counts, slowest, wrong


def main(argv=None):
  """Runs what the command line asks for; 1 if something went wrong."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--inputs", type=int, default=10_000, help="in all")
  parser.add_argument(
    "--first", type=int, default=0, help="number of the first"
  )
  parser.add_argument("--readers", help="names, with commas; default: all")
  parser.add_argument("--out", type=pathlib.Path, help="for what goes wrong")
  args = parser.parse_args(argv)
  names = args.readers.split(",") if args.readers else list(readers.READERS)
  numbers = range(args.first, args.first - (-args.inputs // len(names)))
  kinds = ("read", "refused", "crash", "hang", "memory", "unnamed")
  print("| reader |", " | ".join(kinds), "| slowest, CPU s |", flush=True)
  total, child = collections.Counter(), Child()
  try:
    for name in names:
      counts, slowest, wrong = run(name, args.seed, numbers, child, args.out)
      figures = " | ".join(str(counts[kind]) for kind in kinds)
      print(f"| {name} | {figures} | {slowest:.2f} |", flush=True)
      for number, what, details in wrong[:5]:
        print(ascii(f"{name} {number}: {what}: {details}"), file=sys.stderr)
      total += counts
  finally:
    child.close()
  print("| all |", " | ".join(str(total[kind]) for kind in kinds), "| |")
  return 0 if set(total) <= {"read", "refused"} else 1


if __name__ == "__main__":
  sys.exit(main())
