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
  cat pyproject.toml constraints.txt scripts/_venv.sh scripts/build_native.py hybrid_infer/local/native/*.[ch] | cksum
}

install_venv() {
  local python
  python=$(find_python)
  echo "Installing into .venv with $python (a few minutes the first time) …" >&2
  rm -f .venv/.installed
  # --clear: what an interrupted run has left behind is not worth repairing.
  "$python" -m venv --clear .venv
  .venv/bin/python -m pip install -qq --disable-pip-version-check --upgrade "pip>=25.1"
  # torch goes first and pinned: nothing later can pull another build of it.
  .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt torch
  .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
    --editable ".[demo]" --group dev
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
