"""Pulling over real HTTP from a Hub on loopback, and every way in which that fails."""

import dataclasses
import errno
import json
import pickle
import traceback
from concurrent.futures import ThreadPoolExecutor

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
from hybrid_infer.snapshots import download, listing
from hybrid_infer.snapshots.download import plan_pull, pull
from hybrid_infer.snapshots.hub import hub_url, token_for
from hybrid_infer.snapshots.lock import read_lock, record, user_lock
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.selection import is_allowed
from hybrid_infer.snapshots.verification import check_snapshot, measured

TOKEN = "hf_canary_canary_canary"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """The Hub client repeats failed requests after growing waits; here it does not wait."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


def pulled(fake_hub, spec, token=TOKEN, **options):
    return pull(spec, endpoint=fake_hub.url, token=token, progress=False, **options)


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
def test_the_key_goes_to_hugging_face_and_loopback_only(url, expected):
    assert token_for(url, TOKEN) == (TOKEN if expected else False)
    assert token_for(url, None) is False


def test_the_environment_names_the_hub(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    assert hub_url("org/model", None) == "https://mirror.example"
    assert hub_url("org/model", "http://127.0.0.1:1") == "http://127.0.0.1:1"


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
def test_disks_and_networks_are_told_apart(hub, fake_hub, pinned, monkeypatch, error, expected):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    with pytest.raises(expected) as caught:
        pulled(fake_hub, pinned)
    assert type(caught.value) is expected


def test_a_lock_that_is_never_released_is_a_local_error(hub, fake_hub, pinned, monkeypatch):
    filelock = pytest.importorskip("filelock")

    def fail(*_, **__):
        raise filelock.Timeout("some.lock")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", fail)
    with pytest.raises(LocalEngineError):
        pulled(fake_hub, pinned)


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
    monkeypatch.setattr(download, "list_repository", lambda *_: pytest.fail("asked the Hub"))
    spec = load_registry(profile="tiny").resolve("embeddings", "small")
    assert pull(spec, endpoint=dead_end()) == find_snapshot(spec)


def test_what_arrives_goes_into_the_lock(hub, fake_hub, pinned):
    folder = pulled(fake_hub, pinned)
    listed = read_lock(user_lock())[pinned.repo, pinned.revision]
    assert listed == measured(folder)
    assert set(listed) == {name for name in fake_hub.files if is_allowed(name)}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_other_bytes_than_the_hub_lists_do_not_stay(hub, fake_hub, pinned, name):
    whole = fake_hub.files[name]
    fake_hub.sends[name] = whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:]
    with pytest.raises(ModelIntegrityError, match=f"{name} of .* arrived with other contents"):
        pulled(fake_hub, pinned)
    assert not user_lock().exists()
    fake_hub.sends.clear()
    assert (pulled(fake_hub, pinned) / name).read_bytes() == whole


def test_a_flipped_bit_on_disk_is_mended_by_pulling_again(hub, fake_hub, pinned):
    folder = pulled(fake_hub, pinned)
    weights = (folder / "model.safetensors").resolve()
    content = bytearray(weights.read_bytes())
    content[-3] ^= 16
    weights.write_bytes(content)
    with pytest.raises(ModelIntegrityError, match=r"model\.safetensors"):
        check_snapshot(pinned, folder, strict=False)
    before = len(fake_hub.fetched())
    assert pulled(fake_hub, pinned) == folder
    assert fake_hub.fetched()[before:] == ["model.safetensors"]
    check_snapshot(pinned, folder, strict=True)


def test_a_hub_that_changes_its_mind_about_a_commit_is_refused_before_a_byte(hub, fake_hub, pinned):
    pulled(fake_hub, pinned)
    before = len(fake_hub.fetched())
    fake_hub.files["model.safetensors"] += b"more"
    with pytest.raises(ModelIntegrityError, match="one source says"):
        pulled(fake_hub, pinned)
    assert len(fake_hub.fetched()) == before


def test_a_listing_with_one_more_file_is_refused_before_a_byte(hub, fake_hub, pinned):
    pulled(fake_hub, pinned)
    before = user_lock().read_bytes(), len(fake_hub.fetched())
    fake_hub.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "evil.safetensors"}}'
    with pytest.raises(
        ModelIntegrityError, match=r"is not among the files that models\.lock lists"
    ):
        pulled(fake_hub, pinned)
    assert (user_lock().read_bytes(), len(fake_hub.fetched())) == before


def test_a_listing_with_another_size_is_refused_before_a_byte(hub, fake_hub, pinned):
    pulled(fake_hub, pinned)
    before = len(fake_hub.fetched())
    fake_hub.files["config.json"] += b" "
    with pytest.raises(ModelIntegrityError, match=r"config\.json of .* models\.lock says"):
        pulled(fake_hub, pinned)
    assert len(fake_hub.fetched()) == before


@pytest.mark.parametrize("strict", [False, True])
def test_a_listing_of_other_contents_removes_nothing_that_is_locked(hub, fake_hub, pinned, strict):
    folder = pulled(fake_hub, pinned)
    whole = fake_hub.files["config.json"]
    fake_hub.files["config.json"] = whole[:-3] + b" " + whole[-2:]
    with pytest.raises(ModelIntegrityError, match="Nothing was removed"):
        pulled(fake_hub, pinned, strict=strict)
    assert (folder / "config.json").read_bytes() == whole
    (folder / "config.json").unlink()
    with pytest.raises(ModelIntegrityError, match=r"config\.json of .* one source says"):
        pulled(fake_hub, pinned, strict=strict)
    assert not (folder / "config.json").exists()


def test_strict_fetches_only_what_is_listed(hub, fake_hub, model_folder, pinned, unpinned):
    with pytest.raises(ModelIntegrityError, match="does not list"):
        pulled(fake_hub, pinned, strict=True)
    with pytest.raises(ModelIntegrityError, match="not pinned"):
        pulled(fake_hub, unpinned, strict=True)
    assert fake_hub.fetched() == []
    record(pinned.repo, pinned.revision, measured(model_folder))
    assert pulled(fake_hub, pinned, strict=True) == find_snapshot(pinned)


def test_a_disk_without_room_is_said_before_a_byte(hub, fake_hub, pinned, monkeypatch):
    monkeypatch.setattr(listing, "free_bytes", lambda _: 1_000_000)
    with pytest.raises(LocalEngineError, match=r"0\.00 GB free, and .* needed.*HF_HUB_CACHE"):
        pulled(fake_hub, pinned)
    assert fake_hub.fetched() == []


def test_a_plan_tells_sizes_and_fetches_nothing(hub, fake_hub, pinned):
    plan = plan_pull(pinned, endpoint=fake_hub.url)
    assert plan.files == {
        name: len(body) for name, body in fake_hub.files.items() if is_allowed(name)
    }
    assert plan.missing == tuple(sorted(plan.files))
    assert plan.missing_bytes == sum(plan.files.values())
    assert fake_hub.fetched() == []
    pulled(fake_hub, pinned)
    assert plan_pull(pinned, endpoint=fake_hub.url).missing == ()


def test_a_name_that_leaves_the_folder_is_refused(hub, fake_hub, pinned):
    fake_hub.files["../../../evil.json"] = b"{}"
    with pytest.raises(ModelIntegrityError, match=r"evil\.json.* no file name"):
        pulled(fake_hub, pinned)
    assert fake_hub.fetched() == []


def test_many_pulls_at_once_fetch_each_file_once(hub, fake_hub, pinned):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: pulled(fake_hub, pinned), range(8)))
    assert set(found) == {find_snapshot(pinned)}
    assert len(fake_hub.fetched()) == len(set(fake_hub.fetched()))


def test_a_dry_run_prints_sizes_and_fetches_nothing(hub, fake_hub, monkeypatch, capsys):
    from hybrid_infer.cli import main

    monkeypatch.setenv("HF_ENDPOINT", fake_hub.url)
    with pytest.raises(SystemExit) as ended:
        main(["pull", "embeddings/small", "--dry-run", "--json"])
    assert not ended.value.code
    (plan,) = json.loads(capsys.readouterr().out)["plans"]
    assert plan["missing_bytes"] == sum(plan["files"].values()) > 0
    with pytest.raises(SystemExit):
        main(["pull", "embeddings/small", "--dry-run"])
    printed = capsys.readouterr().out
    assert "all-MiniLM-L6-v2@8b3219a" in printed
    assert "MB to fetch" in printed
    assert fake_hub.fetched() == []


def test_strict_on_the_command_line_fetches_only_what_is_listed(hub, fake_hub, monkeypatch, capsys):
    from hybrid_infer.cli import main

    monkeypatch.setenv("HF_ENDPOINT", fake_hub.url)
    with pytest.raises(SystemExit) as ended:
        main(["pull", "embeddings/small", "--strict"])
    assert ended.value.code == 1
    assert "strict fetches only what it lists" in capsys.readouterr().err
    assert fake_hub.fetched() == []
