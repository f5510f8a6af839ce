"""Fetches files of the Hugging Face hub, by the library `huggingface_hub`.

So they are in the cache that its programs share, and what holds for these holds
here: environment variables (HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN,
HF_ENDPOINT), the login of `hf auth login`, branches and tags that are looked up
anew whenever the hub can be reached, downloads that go on after breaks.
"""

import os
import re
import urllib.parse
from typing import Any, NamedTuple

from big_vision import lookup

SCHEME = "hf://"
_HUB = "https://huggingface.co"
_FORM = re.compile(
  r"""
  hf://
  (?: (?P<kind> models|datasets|spaces ) / )?
  (?P<repo> [^/@]+/[^/@]+ )
  (?: @ (?P<revision> [^/]+ ) )?
  / (?P<file> .+ )
  """,
  re.VERBOSE,
)
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class NoHub(lookup.ConfigError):
  """Says that HF_ENDPOINT serves files in other ways than the hub."""


class File(NamedTuple):
  """A file of the hub.

  Attributes:
    kind: "model", "dataset" or "space".
    repo: "org/name".
    revision: branch, tag or commit.
    name: path in the repository.
  """

  kind: str
  repo: str
  revision: str
  name: str


def parse(uri: str) -> File:
  """Takes the name of a file on the hub apart.

  Args:
    uri: `hf://org/repo[@revision]/file`; `hf://datasets/…` and `hf://spaces/…`
      are repositories of these kinds. `%2F` in a revision stands for "/".

  Returns:
    Its parts. The default revision is "main".

  Raises:
    lookup.ConfigError: `uri` does not have this form.
  """
  match = _FORM.fullmatch(uri)
  if not match:
    raise lookup.ConfigError(
      f"{uri!r} is not of the form hf://org/repo/file, hf://org/repo@revision/"
      "file or hf://datasets/org/repo/file."
    )
  return File(
    (match["kind"] or "models").removesuffix("s"),
    match["repo"],
    urllib.parse.unquote(match["revision"] or "main"),
    match["file"],
  )


def url(uri: str) -> str:
  """Translates the name of a file on the hub to where a plain server has it.

  Args:
    uri: see `parse`.

  Returns:
    URL, below $HF_ENDPOINT if that is set.

  Raises:
    lookup.ConfigError: `uri` does not have the right form.
  """
  file, quote = parse(uri), urllib.parse.quote
  kind = "" if file.kind == "model" else f"{file.kind}s/"
  revision = quote(file.revision, safe="")
  endpoint = (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")
  path = f"{kind}{quote(file.repo)}/resolve/{revision}/{quote(file.name)}"
  return f"{endpoint}/{path}"


def fetch(uri: str) -> str:
  """Makes a file of the hub local, unless the cache has it already.

  Args:
    uri: see `parse`.

  Returns:
    Path in the cache, to be read only.

  Raises:
    lookup.ConfigError: the form of `uri`, no such repository, revision or file,
      no access, no connection; says what to do.
    NoHub: HF_ENDPOINT is a folder, or a plain server of files.
    ImportError: `huggingface_hub` is missing.
  """
  file = parse(uri)
  try:
    import huggingface_hub
    from huggingface_hub import constants, errors
  except ImportError as e:
    raise ImportError(
      f"{uri} is fetched by the package huggingface_hub, which is not installed: "
      "pip install 'big_vision[hub]', or give the path of a local copy."
    ) from e
  # The library reads the variable only when it is imported.
  endpoint = (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
  if endpoint and endpoint.startswith("file:"):
    raise NoHub(f"{endpoint} is a folder.")
  try:
    return huggingface_hub.hf_hub_download(
      file.repo,
      file.name,
      repo_type=file.kind,
      revision=file.revision,
      endpoint=endpoint,
      local_files_only=constants.HF_HUB_OFFLINE,
      library_name="big_vision",
    )
  except Exception as e:  # Its own, httpx, requests, OSError: no common base.
    if endpoint and _is_plain(e, errors):
      raise NoHub(f"{endpoint} does not answer as the hub does.") from e
    reason = _reason(e, file, errors)
    raise lookup.ConfigError(f"Cannot download {uri}: {reason}") from e


def _is_plain(error, errors: Any):
  """Tells whether a server has no facts about files, or refuses to tell them."""
  cause = error.__cause__ or error
  if isinstance(cause, errors.FileMetadataError):
    return True
  response: Any = getattr(cause, "response", None)
  if getattr(response, "status_code", None) not in (404, 405, 501):
    return False
  return "X-Error-Code" not in response.headers


def _reason(error, file, errors: Any):
  """Ends the sentence about a file that cannot be had."""
  where = f"the {file.kind} {file.repo}"
  if isinstance(error, errors.GatedRepoError):
    return (
      f"the owners of {where} grant access to it. Accept their terms on its "
      f"page of the hub; then {_LOG_IN}."
    )
  if isinstance(error, errors.RepositoryNotFoundError):
    return (
      f"the hub has no {file.kind} {file.repo!r}, or it is private. Check the "
      f"name; if it is right, {_LOG_IN}."
    )
  if isinstance(error, errors.RevisionNotFoundError):
    return (
      f"{where} has no revision {file.revision!r}. Write a branch, a tag or a "
      "commit after the @."
    )
  if isinstance(
    error, errors.LocalEntryNotFoundError
  ):  # Before its base class.
    return _without_answer(error.__cause__, file, errors)
  if isinstance(error, errors.EntryNotFoundError):
    return f"{where} has no file {file.name!r} at revision {file.revision!r}."
  return f"{_one_line(error)}."


def _without_answer(cause, file, errors):
  """Tells why the hub did not say where a file is that the cache lacks."""
  from huggingface_hub import constants

  copy = "or give the path of a local copy."
  if constants.HF_HUB_OFFLINE:
    command = f"hf download {file.repo} {file.name}"
    if file.kind != "model":
      command += f" --repo-type {file.kind}"
    if file.revision != "main":
      command += f" --revision {file.revision}"
    return (
      f"HF_HUB_OFFLINE is set, and {constants.HF_HUB_CACHE} does not have the "
      f"file. Fetch it where there is a network (`{command}`), {copy}"
    )
  status = getattr(getattr(cause, "response", None), "status_code", None)
  if status == 403:
    return f"the hub refuses access (403): {_LOG_IN}, {copy}"
  return f"the hub does not answer: {_one_line(cause)}. Try again, {copy}"


def _one_line(error):
  return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
