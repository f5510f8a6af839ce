#!/usr/bin/env bash
# Runs the tests with other releases of Python, JAX and the rest than bv_venv has.
#
#   bash tests/newest/run.sh            the whole suite on the newest releases
#   bash tests/newest/run.sh --quick    a selection, a few minutes
#   bash tests/newest/run.sh --oldest   the whole suite on the oldest releases
#   ... [--quick] -- ARGS               pytest ARGS instead of the whole suite
#
# JAX has dropped Python 3.11, so a machine with that tests old releases only.
# The newest ones are tested with a Python 3.13 or 3.12 of this machine or, if it
# has none, with one in a Debian 13 that debootstrap installs (as root; about ten
# minutes). `--oldest` takes Python 3.11 and the lower bounds of pyproject.toml.
#
# Environments are kept in $BV_TEST_CACHE (default ~/.cache/big_vision) by the
# contents of requirements.txt; one of the newest releases is made anew after
# 30 days. Remove the folder to start afresh.
#
# BV_NEWEST_PYTHON   Python to use; `debian` makes a Debian whatever there is
# BV_OLDEST_PYTHON   Python for --oldest
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
repo="$(dirname "$(dirname "$here")")"
cache="${BV_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/big_vision}"
key="$(cat "$repo/requirements.txt" "$repo/setup.sh" | sha256sum | cut -c1-12)"

say() { echo "tests/newest/run.sh: $*" >&2; }
die() {
  say "$*"
  exit 1
}

# A path to a Python of one of some versions: beside python3, or of pyenv.
find_python() {
  local version python
  for version in "$@"; do
    for python in "python$version" \
      "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
      if "$python" -c "import ensurepip, sys
sys.exit('%d.%d' % sys.version_info[:2] != '$version')" >/dev/null 2>&1; then
        "$python" -c 'import sys; print(sys.executable)'
        return
      fi
    done
  done
  return 1
}

# --- An environment of a Python on this machine.

# Sets `env` and `python`; $1: name, $2: Python. Other variables are for setup.sh.
make_env() {
  env="$cache/$1-$key"
  mkdir -p "$env"
  cp "$repo/setup.sh" "$repo/requirements.txt" "$env"
  if [[ "$1" == newest* ]]; then
    forget_old "$env"
  fi
  BV_PYTHON="$2" BV_JAX=cpu bash "$env/setup.sh"
  python="$env/bv_venv/bin/python"
  local compiled="$env/bv_venv/.bytecode" # Else each test process would.
  [[ -e "$compiled" ]] ||
    { inside -m big_vision.bytecode >/dev/null 2>&1 && touch "$compiled"; } || true
}

forget_old() {
  find "$1/bv_venv/.bv_complete" -mtime +30 -delete 2>/dev/null || true
}

# Runs Python of the environment in the repository.
inside() {
  (cd "$repo" && VIRTUAL_ENV="$env/bv_venv" \
    PATH="$env/bv_venv/bin:$PATH" PYTHONPATH="$repo:$repo/tests" \
    "$python" "$@")
}

# --- An environment in a Debian of its own.

make_debian() {
  root="$cache/debian-13"
  [[ "$(id -u)" == 0 ]] ||
    die "no Python 3.13 or 3.12 here: install one, or run this as root"
  unshare --mount true 2>/dev/null ||
    die "no Python 3.13 or 3.12 here, and mounting is not allowed: install one"
  if ! command -v debootstrap >/dev/null; then
    { apt-get -qq update && apt-get -qq install -y debootstrap; } >/dev/null ||
      die "no Python 3.13 or 3.12 here: install one, or debootstrap"
  fi
  if [[ ! -e "$root/.complete" ]]; then
    say "installing Debian 13 in $root"
    rm -rf "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase \
      --include=python3,python3-venv,python3-pip,ca-certificates \
      trixie "$root" >"$root.log" 2>&1 ||
      die "debootstrap failed, see $root.log"
    touch "$root/.complete"
  fi
  mkdir -p "$root/env-$key" "$root/exchange" "$root$HOME"
  cp "$repo/setup.sh" "$repo/requirements.txt" "$root/env-$key"
  forget_old "$root/env-$key"
  carry_settings
  # What git would commit, and what is new.
  rm -rf "$root/repo"
  mkdir "$root/repo"
  (cd "$repo" && git ls-files -z --cached --others --exclude-standard |
    xargs -0 tar c --ignore-failed-read) | tar x -C "$root/repo"
  in_debian env BV_JAX=cpu bash "/env-$key/setup.sh"
}

# pip and certificates in the Debian as on this machine. Sets `shared_paths`.
carry_settings() {
  local file name
  shared_paths=()
  for file in /etc/pip.conf /etc/xdg/pip/pip.conf "$HOME/.config/pip/pip.conf" \
    "$HOME/.pip/pip.conf" "${PIP_CONFIG_FILE:-}"; do
    if [[ -f "$file" ]]; then
      mkdir -p "$root$(dirname "$file")"
      cp -L "$file" "$root$file"
    fi
  done
  # Folders and files that the settings name. An index in a folder has links to
  # files beside that folder.
  while read -r file; do
    [[ "$file" != file://* ]] || file="$(dirname "${file#file://}")"
    [[ -e "$file" && "$file" != / ]] && shared_paths+=("$file")
  done < <(python3 -m pip config list 2>/dev/null |
    grep -oE "(file://)?/[^'\" ,;\\]+" | sort -u)
  for name in $(compgen -e | grep -E 'CERT|CA_BUNDLE|CA_FILE'); do
    [[ -e "${!name}" ]] && shared_paths+=("${!name}")
  done
  [[ -e /etc/ssl/certs/ca-certificates.crt ]] &&
    shared_paths+=(/etc/ssl/certs/ca-certificates.crt)
  return 0
}

# Runs a command there. What is mounted for it goes when it ends.
in_debian() {
  local script='
    root="$1"; shift
    mount --bind /proc "$root/proc"
    mount --bind /dev "$root/dev"
    while [[ "$1" != -- ]]; do
      if [[ -d "$1" ]]; then mkdir -p "$root$1"
      else mkdir -p "$(dirname "$root$1")"; touch "$root$1"; fi
      mount --bind "$1" "$root$1"
      shift
    done
    shift
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
      exec chroot "$root" "$@"'
  unshare --mount bash -euc "$script" - "$root" \
    "${shared_paths[@]+"${shared_paths[@]}"}" -- "$@"
}

# --- What is run.

run_all() {
  if (($#)); then
    inside -m pytest "$@"
  else
    inside -m pytest -n 2 --dist loadfile
  fi
}

# Imports, planning, a training that is compared with a recorded one, models of
# each family against known numbers, checkpoints of one version in the other.
run_quick() {
  local other="$repo/bv_venv/bin/python" exchange="$exchange_outside"
  inside -m pytest -q -n 2 --dist loadfile "$@" tests/newest/quick.py \
    tests/test_compat.py tests/planning tests/test_imports.py
  inside -m pytest -q -n 2 --dist loadfile "$@" tests/models -k \
    "test_known_numbers or test_initial_values or test_reference_forward or \
test_model_is_made_of_blocks or test_number_of_tokens or test_names_and_shapes"
  inside -m pytest -q "$@" tests/test_train.py -k test_curves
  bash "$repo/setup.sh" # The other version.
  rm -rf "$exchange/ours" "$exchange/theirs"
  (cd "$repo" && PYTHONPATH="$repo:$repo/tests" "$other" tests/newest/checkpoint.py write "$exchange/ours")
  inside tests/newest/checkpoint.py read "$exchange_inside/ours"
  inside tests/newest/checkpoint.py write "$exchange_inside/theirs"
  (cd "$repo" && PYTHONPATH="$repo:$repo/tests" "$other" tests/newest/checkpoint.py read "$exchange/theirs")
}

what=run_all release=newest
while (($#)); do
  case "$1" in
    --quick) what=run_quick ;;
    --oldest) release=oldest ;;
    --) shift && break ;;
    *) die "unknown argument '$1'; see the head of this file" ;;
  esac
  shift
done

if [[ "$release" == oldest ]]; then
  found="${BV_OLDEST_PYTHON:-$(find_python 3.11)}" ||
    die "no Python 3.11 here; install one and set BV_OLDEST_PYTHON to it"
  # Resolution alone gives up a lower bound when a new release of an indirect
  # dependency comes first.
  bounds="$(mktemp)"
  sed 's/>=/==/' "$repo/requirements.txt" >"$bounds"
  UV_CONSTRAINT="$bounds" make_env oldest "$found"
  rm "$bounds"
  inside tests/newest/bounds.py
elif [[ "${BV_NEWEST_PYTHON:-}" != debian ]] &&
  found="${BV_NEWEST_PYTHON:-$(find_python 3.13 3.12)}"; then
  make_env newest "$found"
else
  make_debian
  inside() {
    in_debian bash -c 'cd /repo && PYTHONPATH=/repo:/repo/tests exec "$@"' - \
      "/env-$key/bv_venv/bin/python" "$@"
  }
  exchange_outside="$root/exchange" exchange_inside=/exchange
fi
if [[ -z "${exchange_outside:-}" ]]; then
  exchange_outside="$(mktemp -d)"
  trap 'rm -rf "$exchange_outside"' EXIT
  exchange_inside="$exchange_outside"
fi
inside -c 'import sys, jax, flax, numpy
print("Python", sys.version.split()[0], "jax", jax.__version__,
      "flax", flax.__version__, "numpy", numpy.__version__)'
"$what" "$@"
