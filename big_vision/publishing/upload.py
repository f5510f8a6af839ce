"""Uploads a folder to a repository on the Hugging Face hub."""

import os
import re

from big_vision import lookup


def upload(folder: str, repo: str, *, private: bool = False) -> str:
  """Uploads a folder, as one commit.

  Args:
    folder: local, with all that the repository shall have.
    repo: "org/name"; it is made if it does not exist.
    private: whether a new repository is private.

  Returns:
    URL of the commit.

  Raises:
    ConfigError: the name has another form, or the hub refuses.
    ImportError: `huggingface_hub` is missing.
  """
  check_name(repo)
  try:
    import huggingface_hub
    from huggingface_hub import errors
  except ImportError as e:
    raise ImportError(
      "--upload needs the package huggingface_hub: pip install 'big_vision[hub]'."
    ) from e
  endpoint = (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
  api = huggingface_hub.HfApi(endpoint=endpoint, library_name="big_vision")
  try:
    api.create_repo(repo, private=private, exist_ok=True)
    commit = api.upload_folder(
      repo_id=repo, folder_path=folder, commit_message="Model of big_vision"
    )
  except (errors.HfHubHTTPError, OSError) as e:
    reason = " ".join(str(e).split())
    raise lookup.ConfigError(
      f"--upload={repo}: the hub refuses, or cannot be reached: {reason} Log in "
      f"with `hf auth login`, or set HF_TOKEN. {folder} is complete."
    ) from e
  return str(commit.commit_url)


def check_name(repo: str) -> None:
  """Checks the name of a repository.

  Args:
    repo: name.

  Raises:
    ConfigError: it is not "org/name".
  """
  if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
    raise lookup.ConfigError(
      f"--upload={repo!r} should be the name of a repository on the hub, org/name."
    )
