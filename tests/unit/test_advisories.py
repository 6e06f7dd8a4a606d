"""The audit of dependencies passes only if nothing was found, or if no network was to be had."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "audit" / "advisories.py"


def ended(tmp_path, document, log=""):
    (tmp_path / "found").write_text(document)
    (tmp_path / "log").write_text(log)
    words = [sys.executable, str(SCRIPT), str(tmp_path / "found"), str(tmp_path / "log")]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("log", "code"),
    [
        ("requests.exceptions.ConnectionError: Max retries exceeded with url: /", 0),
        ("socket.gaierror: NameResolutionError: Failed to resolve 'pypi.org'", 0),
        ("ReadTimeout: Read timed out. (read timeout=20)", 0),
        ("", 1),
        ("error: unrecognized arguments: --local", 1),
        ("Traceback: KeyError: 'vulns'", 1),
        ("ERROR: Certificate verification failed", 1),
    ],
)
@pytest.mark.parametrize("document", ["", "[]", "{}", "{"])
def test_a_failure_passes_only_for_want_of_a_network(tmp_path, document, log, code):
    done = ended(tmp_path, document, log)
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize(("vulns", "code"), [([], 0), ([{"id": "PYSEC-1"}], 1)])
def test_a_document_decides(tmp_path, vulns, code):
    entry = {"name": "some", "version": "1", "vulns": vulns}
    done = ended(tmp_path, json.dumps({"dependencies": [entry]}), "a warning")
    assert done.returncode == code
    assert ("some: PYSEC-1" in done.stdout) == bool(code)
