# Sourced by the other scripts: makes .venv from a bare checkout, once.
#
# Needs Python 3.11 or newer, git, and a package index that pip is configured for. The stamp file
# is written last and names the inputs, so an interrupted or outdated installation is redone.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3 python; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "hybrid_infer needs Python 3.11 or newer, and none was found on PATH." >&2
  echo "Install one (for instance: apt-get install python3.11 python3.11-venv), or set PYTHON=…" >&2
  exit 1
}

inputs_stamp() {
  cat pyproject.toml constraints.txt requirements.lock scripts/_venv.sh scripts/build_native.py hybrid_infer/local/native/*.[ch] | cksum
}

# CI takes each file by its hash, where the lock is for machines like it.
is_locked() {
  [ -n "${CI:-}" ] && [ "$(uname -s) $(uname -m)" = "Linux x86_64" ] &&
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'
}

# The entry of a package in the lock.
locked() {
  sed -n "/^$1==/,/[^\\\\]\$/p" requirements.lock
}

install_locked() {
  local install=(.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps)
  # pip first, so that the rest is installed by the one that is locked.
  "${install[@]}" --require-hashes -r <(locked pip)
  # pip would prefer the index's build of torch, because a link there names its hash, to a wheel of this
  # machine's own. So what the machine is configured to take is fetched first, and then compared.
  .venv/bin/python -m pip download -qq --disable-pip-version-check --no-deps --only-binary=:all: \
    -c constraints.txt --dest .venv/wheels torch
  "${install[@]}" --require-hashes --no-index --find-links .venv/wheels -r <(locked torch)
  rm -r .venv/wheels
  "${install[@]}" --require-hashes --only-binary=:all: -r requirements.lock
  "${install[@]}" --no-build-isolation --editable .
  .venv/bin/python scripts/lock.py --check >&2
}

install_pinned() {
  local install=(.venv/bin/python -m pip install -qq --disable-pip-version-check)
  "${install[@]}" --upgrade "pip>=25.1"
  # torch goes first and pinned: nothing later can pull another build of it.
  "${install[@]}" -c constraints.txt torch
  "${install[@]}" -c constraints.txt --editable ".[demo,server]" --group dev
}

install_venv() {
  local python
  python=$(find_python)
  echo "Installing into .venv with $python (a few minutes the first time) …" >&2
  rm -f .venv/.installed
  # --clear: what an interrupted run has left behind is not worth repairing.
  "$python" -m venv --clear .venv
  if is_locked "$python"; then
    install_locked
  else
    install_pinned
  fi
  inputs_stamp >.venv/.installed
}

ensure_venv() {
  if [ "$(cat .venv/.installed 2>/dev/null)" = "$(inputs_stamp)" ]; then
    return
  fi
  if command -v flock >/dev/null 2>&1; then
    exec 9>.venv.lock
    flock 9 # a second script started meanwhile waits, and then finds the stamp
    if [ "$(cat .venv/.installed 2>/dev/null)" != "$(inputs_stamp)" ]; then
      install_venv
    fi
    exec 9>&-
  else
    install_venv
  fi
}

ensure_venv
