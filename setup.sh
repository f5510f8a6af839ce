#!/usr/bin/env bash
# Makes the virtual environment bv_venv beside this file and runs a module in it.
#
#   bash setup.sh                    only set up
#   bash setup.sh MODULE ARGS...     set up if needed, then python -m MODULE ARGS
#
# MODULE runs in the caller's folder. Set up again when requirements.txt, the
# Python version or the jax build changes, or when an install was interrupted.
#
# BV_JAX     cpu, cuda12, cuda13, tpu: the jax build, found out by default;
#            none: keep the jax that BV_PYTHON already has, as in a container
# BV_PYTHON  the Python (3.11 to 3.13, for which there is a TensorFlow) to make
#            bv_venv with; by default python3, or else another one beside it
# On TPU hosts MODULE gets BV_JAX_INIT=1 (jax.distributed), unless it is set.
set -euo pipefail

# The file behind symbolic links: big_vision/setup.sh is one, so that a copy of
# the package alone (scp follows links) brings its own setup.sh.
file="${BASH_SOURCE[0]}"
while [[ -L "$file" ]]; do
  link="$(readlink "$file")"
  [[ "$link" == /* ]] || link="$(dirname "$file")/$link"
  file="$link"
done
here="$(cd "$(dirname "$file")" && pwd -P)"
root="$here" # The folder that contains the package big_vision.
[[ -f "$here/train.py" ]] && root="$(dirname "$here")"
venv="$here/bv_venv"
stamp="$venv/.bv_complete"

say() { echo "setup.sh: $*" >&2; }
die() {
  say "$*"
  exit 1
}

is_tpu_vm() {
  # PCI devices of vendor Google with the ids of TPU chips, v2 to v7.
  local dir
  for dir in /sys/bus/pci/devices/*; do
    [[ "$(cat "$dir/vendor" 2>/dev/null)" == 0x1ae0 ]] || continue
    case "$(cat "$dir/device" 2>/dev/null)" in
      0x0027 | 0x0056 | 0x005e | 0x0062 | 0x0063 | 0x006f | 0x0076) return 0 ;;
    esac
  done
  return 1
}

jax_build() {
  if [[ -n "${BV_JAX:-}" ]]; then
    echo "$BV_JAX"
  elif is_tpu_vm; then
    echo tpu
  elif gpu="$(nvidia-smi --query-gpu=driver_version,compute_cap \
    --format=csv,noheader,nounits 2>/dev/null)" && [[ -n "$gpu" ]]; then
    # CUDA 13 needs a driver >= 580 and a GPU of compute capability >= 7.5.
    local pattern='^([0-9]+)[^,]*, *([0-9]+)\.([0-9])'
    if [[ "$gpu" =~ $pattern ]] &&
      ((BASH_REMATCH[1] >= 580)) &&
      ((BASH_REMATCH[2] * 10 + BASH_REMATCH[3] >= 75)); then
      echo cuda13
    else
      echo cuda12
    fi
  else
    echo cpu
  fi
}

apt() {
  local sudo=()
  [[ "$(id -u)" == 0 ]] || sudo=(sudo)
  "${sudo[@]+"${sudo[@]}"}" apt-get -qq "$@"
}

install_system() {
  apt update && apt install -y "$@"
}

make_venv() {
  local options=()
  [[ "$jax" != none ]] || options=(--system-site-packages)
  rm -rf "$venv"
  "$python" -m venv "${options[@]+"${options[@]}"}" "$venv" && return
  # Debian and Ubuntu keep a part of venv in a package of its own.
  command -v apt-get >/dev/null ||
    die "'$python -m venv' failed: install venv, or set BV_PYTHON"
  say "installing the system package python${version%.*}-venv"
  install_system "python${version%.*}-venv"
  rm -rf "$venv"
  "$python" -m venv "${options[@]+"${options[@]}"}" "$venv"
}

install_packages() {
  local py="$venv/bin/python" name scope value name_uv
  local packages=(-r "$here/requirements.txt")
  case "$jax" in cuda* | tpu) packages+=("jax[$jax]") ;; esac

  # uv takes a fraction of pip's time. It does not read pip's settings, which
  # tell where packages come from here.
  for name in index-url:UV_DEFAULT_INDEX extra-index-url:UV_INDEX \
    find-links:UV_FIND_LINKS; do
    for scope in :env: global install; do
      value="$("$py" -m pip config get "$scope.${name%:*}" 2>/dev/null)" ||
        continue
      name_uv="${name#*:}"
      [[ -n "${!name_uv:-}" ]] || export "$name_uv=$value"
    done
  done
  # As pip: the newest version of all these places.
  export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
  # uv does not see what --system-site-packages brings.
  if [[ "$jax" != none ]] && "$py" -m pip install -qq uv; then
    "$py" -m uv pip install -q "${packages[@]}" && return
    say "uv failed; trying pip, which takes minutes"
  fi
  "$py" -m pip install -qq "${packages[@]}"
}

set_up() {
  # The lock belongs to the open file 9, so it holds after this Python ended,
  # until this shell and what it started have closed the file.
  exec 9>"$here/.bv_venv.lock"
  "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
  if ! is_ready; then # Else another process has made it while this one waited.
    say "making $venv with jax for $jax, takes about a minute"
    make_venv
    install_packages
    # `import big_vision` works in bv_venv from any folder.
    local packages="$venv/lib/python${version%.*}/site-packages"
    mkdir -p "$packages" && echo "$root" >"$packages/big_vision.pth"
    if [[ -d "$root/big_vision" ]]; then
      # The first import of packages is slow, this one.
      (cd "$root" && "$venv/bin/python" -m big_vision.bytecode >/dev/null 2>&1) ||
        say "importing big_vision failed; its commands will say why"
    fi
    echo "$wanted" >"$stamp" # Last: without it bv_venv is made anew.
    say "done in ${SECONDS}s"
  fi
  exec 9>&-
}

is_ready() {
  [[ -f "$stamp" && "$(cat "$stamp")" == "$wanted" ]]
}

# Ubuntu 22.04, which TPU VMs run, has a newer Python beside its python3; other
# systems have one that is too new.
find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys
sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  if command -v apt-get >/dev/null; then
    say "no Python 3.11 to 3.13 here; asking apt-get for one"
    apt update >&2 || true
    for name in python3.13 python3.12 python3.11; do
      apt install -y "$name-venv" >/dev/null 2>&1 && echo "$name" && return
    done
  fi
  echo python3 # Whose version is then complained about.
}

python="${BV_PYTHON:-$(find_python)}"
# If bv_venv is active, the Python that it was made with.
if [[ "$(command -v "$python")" == "$venv"/* ]]; then
  python="$(readlink -f "$venv/bin/python3")"
fi
facts="$("$python" -c 'if True:
  import hashlib, platform, sys
  digest = hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest()
  print(platform.python_version() + " " + digest)' "$here/requirements.txt")" ||
  die "'$python' does not run; set BV_PYTHON to a Python of 3.11 to 3.13"
version="${facts% *}"
[[ "$version" =~ ^3\.1[123]\. ]] ||
  die "Python 3.11 to 3.13 needed, '$python' is $version and has no" \
    "TensorFlow; install one and set BV_PYTHON to it"

jax="$(jax_build)"
case "$jax" in
  cpu | cuda12 | cuda13 | tpu | none) ;;
  *) die "BV_JAX='$jax' is none of cpu, cuda12, cuda13, tpu, none" ;;
esac
wanted="python $version, jax $jax, requirements ${facts#* }"

is_ready || set_up >&2

if (($#)); then
  [[ "$jax" == tpu ]] && export BV_JAX_INIT="${BV_JAX_INIT-1}"
  export VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH"
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
  # What commands show to be typed next begins as this one did.
  BV_START="$(printf 'bash %q' "$0")" && export BV_START
  exec "$venv/bin/python" -m "$@"
fi
