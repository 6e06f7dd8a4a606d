"""Pulling over real HTTP from a Hub on loopback, and every way in which that fails."""

import dataclasses
import errno
import pickle
import traceback

import pytest

from hybrid_infer.errors import (
    APIConnectionError,
    AuthenticationError,
    InvalidRequestError,
    LocalEngineError,
    ModelIntegrityError,
    ModelNotAvailableError,
    RateLimitError,
    RemoteServerError,
)
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import download
from hybrid_infer.snapshots.download import pull
from hybrid_infer.snapshots.resolve import find_snapshot

TOKEN = "hf_canary_canary_canary"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """The Hub client repeats failed requests after growing waits; here it does not wait."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


def pulled(fake_hub, spec, token=TOKEN):
    return pull(spec, endpoint=fake_hub.url, token=token, progress=False)


def test_a_pinned_model_arrives_and_is_found(hub, fake_hub, pinned):
    folder = pulled(fake_hub, pinned)
    assert folder == find_snapshot(pinned) == hub / folder.relative_to(hub)
    assert (folder / "model.safetensors").read_bytes() == fake_hub.files["model.safetensors"]
    assert {key for _, _, key in fake_hub.requests} == {f"Bearer {TOKEN}"}


def test_an_unpinned_model_is_what_main_is_now(hub, fake_hub, unpinned):
    folder = pulled(fake_hub, unpinned)
    assert find_snapshot(unpinned) == folder
    assert (folder.parent.parent / "refs" / "main").read_text() == folder.name


def test_code_pickles_and_other_formats_stay_away(hub, fake_hub, pinned):
    unwanted = {
        "pytorch_model.bin", "modeling.py", "tf_model.h5", "onnx/model.onnx", "onnx/config.json",
        "model.gguf", "original/params.json", "README.md", "consolidated.safetensors",
    }  # fmt: skip
    fake_hub.files.update(dict.fromkeys(unwanted, b"x"))
    folder = pulled(fake_hub, pinned)
    assert not unwanted & set(fake_hub.fetched())
    assert not [name for name in unwanted if (folder / name).exists()]


def test_pulling_again_fetches_nothing(hub, fake_hub, pinned):
    pulled(fake_hub, pinned)
    before = len(fake_hub.fetched())
    pulled(fake_hub, pinned)
    assert len(fake_hub.fetched()) == before > 0


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_pulling_again_repairs_only_what_is_damaged(hub, fake_hub, pinned, name):
    folder = pulled(fake_hub, pinned)
    (folder / name).resolve().write_bytes(b"<html>proxy error</html>")
    with pytest.raises(ModelIntegrityError, match=rf"{name}.*HTML.*hybrid-infer pull"):
        find_snapshot(pinned)
    before = len(fake_hub.fetched())
    assert pulled(fake_hub, pinned) == folder
    assert fake_hub.fetched()[before:] == [name]


def test_an_incomplete_repository_names_what_it_lacks(hub, fake_hub, pinned):
    del fake_hub.files["modules.json"]
    with pytest.raises(ModelIntegrityError, match=r"modules\.json"):
        pulled(fake_hub, pinned)


@pytest.mark.parametrize(
    ("status", "headers", "expected", "words"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, ModelNotAvailableError, "https://huggingface.co/sent"),
        (404, {"X-Error-Code": "RepoNotFound"}, ModelNotAvailableError, "https://huggingface.co/"),
        (404, {"X-Error-Code": "RevisionNotFound"}, ModelNotAvailableError, "no revision"),
        (401, {}, AuthenticationError, "HTTP 401"),
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            AuthenticationError,
            "settings/tokens",
        ),
        (403, {}, AuthenticationError, "HTTP 403"),
        (429, {}, RateLimitError, "HTTP 429"),
        (500, {}, RemoteServerError, "HTTP 500"),
        (418, {}, APIConnectionError, "HTTP 418"),
    ],
)
def test_answers_become_our_errors(hub, fake_hub, pinned, status, headers, expected, words):
    fake_hub.answer = (status, headers)
    with pytest.raises(expected, match=words) as caught:
        pulled(fake_hub, pinned)
    assert type(caught.value) is expected


def dead_end():
    return "http://127.0.0.1:9"  # the discard port: nothing listens


def test_a_dead_hub_is_a_connection_error_without_the_key(hub, pinned, caplog, capsys):
    with pytest.raises(APIConnectionError, match="could not be reached") as caught:
        pull(pinned, endpoint=dead_end(), token=TOKEN, progress=False)
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value.__dict__)
    printed = capsys.readouterr()
    for text in (shown, caplog.text, printed.out, printed.err):
        assert "canary" not in text
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert b"canary" not in pickle.dumps(caught.value)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_sends_nothing_and_names_the_variable(hub, fake_hub, pinned, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(APIConnectionError, match=variable):
        pulled(fake_hub, pinned)
    assert fake_hub.requests == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://huggingface.co", True),
        ("https://hub-ci.huggingface.co", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080", True),
        ("http://huggingface.co", False),
        ("https://huggingface.co.evil.example", False),
        ("https://evilhuggingface.co", False),
        ("https://huggingface.co@evil.example", False),
        ("https://mirror.example", False),
        ("huggingface.co", False),
    ],
)
def test_the_key_goes_to_hugging_face_and_loopback_only(hub, pinned, monkeypatch, url, expected):
    given = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda _repo, **options: given.update(options)
    )
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(Exception, match="hybrid-infer pull"):
        pull(pinned, token=TOKEN, progress=False)
    assert given["token"] == (TOKEN if expected else False)
    assert given["endpoint"] == url


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), LocalEngineError),
        (PermissionError(errno.EACCES, "Permission denied"), LocalEngineError),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), LocalEngineError),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), APIConnectionError),
        (TimeoutError("timed out"), APIConnectionError),
        (ValueError("surprise"), APIConnectionError),
    ],
)  # fmt: skip
def test_disks_and_networks_are_told_apart(hub, pinned, monkeypatch, error, expected):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(expected) as caught:
        pull(pinned, progress=False)
    assert type(caught.value) is expected


def test_a_lock_that_is_never_released_is_a_local_error(hub, pinned, monkeypatch):
    filelock = pytest.importorskip("filelock")

    def fail(*_, **__):
        raise filelock.Timeout("some.lock")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(LocalEngineError):
        pull(pinned, progress=False)


def test_a_malformed_repository_id_is_the_callers_mistake(hub, fake_hub, pinned):
    with pytest.raises(InvalidRequestError) as caught:
        pulled(fake_hub, dataclasses.replace(pinned, repo="org/--bad--"))
    assert caught.value.argument == "model"


def test_no_progress_leaves_the_hubs_own_bars_alone(hub, fake_hub, pinned, capsys):
    from huggingface_hub.utils import are_progress_bars_disabled

    before = are_progress_bars_disabled()
    pulled(fake_hub, pinned)
    assert are_progress_bars_disabled() == before
    assert capsys.readouterr().err == ""


def test_a_seeded_model_is_written_and_never_asked_for(monkeypatch):
    monkeypatch.setattr(download, "_download", lambda *_, **__: pytest.fail("asked the Hub"))
    spec = load_registry(profile="tiny").resolve("embeddings", "small")
    assert pull(spec, endpoint=dead_end()) == find_snapshot(spec)
