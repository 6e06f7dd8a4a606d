"""What a pull does before it places a file: where the bytes are meanwhile, and what it goes on with."""

import importlib
import json

import pytest

from hybrid_infer.errors import APIConnectionError, ModelIntegrityError, ModelNotAvailableError
from hybrid_infer.snapshots import fetching, transfer
from hybrid_infer.snapshots.download import pull
from hybrid_infer.snapshots.fetching import snapshot_path
from hybrid_infer.snapshots.folders import INCOMING, repo_folder
from hybrid_infer.snapshots.incoming import Incoming
from hybrid_infer.snapshots.listing import HubFile
from hybrid_infer.snapshots.lock import record, user_lock
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.verification import check_snapshot, measured

WEIGHTS = "model.safetensors"
CHUNK = 4096


@pytest.fixture(autouse=True)
def _small_and_impatient(monkeypatch):
    """The Hub's client writes ten megabytes at a time, and waits before it tries again."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)


def pulled(fake_hub, spec, **options):
    return pull(spec, endpoint=fake_hub.url, progress=False, **options)


def entries(hub, spec):
    """What there is of a repository: files and links, never mind which folders."""
    repo = repo_folder(spec.repo, hub)
    return sorted(
        path.relative_to(repo).as_posix() for path in repo.rglob("*") if not path.is_dir()
    )


def part(hub, spec, fake_hub, name=WEIGHTS):
    return repo_folder(spec.repo, hub) / INCOMING / "blobs" / f"{fake_hub.etag(name)}.part"


def test_nothing_is_in_the_snapshot_before_all_of_it_is_proved(hub, fake_hub, pinned, monkeypatch):
    seen = []
    gathered = Incoming.gather

    def gather(self, files):
        gathered(self, files)
        seen.append((snapshot_path(pinned, pinned.revision).exists(), user_lock().exists()))

    monkeypatch.setattr(Incoming, "gather", gather)
    folder = pulled(fake_hub, pinned)
    assert seen == [(False, False)]
    assert not [name for name in entries(hub, pinned) if name.startswith(INCOMING)]
    assert all((folder / name).resolve().parent.name == "blobs" for name in measured(folder))


def test_a_commit_that_no_loader_may_be_given_leaves_nothing(hub, fake_hub, pinned):
    config = json.loads(fake_hub.files["config.json"]) | {"attn_implementation": "org/kernel"}
    fake_hub.files["config.json"] = json.dumps(config).encode()
    with pytest.raises(ModelIntegrityError, match=r"config\.json names 'org/kernel'.*placed"):
        pulled(fake_hub, pinned)
    assert entries(hub, pinned) == []
    assert not user_lock().exists()


def test_contents_that_models_lock_knows_otherwise_leave_nothing(
    hub, fake_hub, pinned, model_folder
):
    record(pinned.repo, pinned.revision, measured(model_folder))
    whole = fake_hub.files["config.json"]
    fake_hub.files["config.json"] = whole[:-3] + b" " + whole[-2:]
    with pytest.raises(ModelIntegrityError, match=r"config\.json of .* one source says"):
        pulled(fake_hub, pinned)
    assert entries(hub, pinned) == []


def test_what_arrived_whole_is_kept_when_one_file_arrives_damaged(hub, fake_hub, pinned):
    fake_hub.sends["config.json"] = b"x" * len(fake_hub.files["config.json"])
    with pytest.raises(ModelIntegrityError, match="arrived with other contents"):
        pulled(fake_hub, pinned)
    assert {name.partition("/")[0] for name in entries(hub, pinned)} == {INCOMING}
    fake_hub.sends.clear()
    before = len(fake_hub.fetched())
    pulled(fake_hub, pinned)
    assert fake_hub.fetched()[before:] == ["config.json"]


def test_a_connection_that_is_cut_is_gone_on_with_at_once(hub, fake_hub, pinned):
    fake_hub.stops[WEIGHTS] = 5 * CHUNK
    size = len(fake_hub.files[WEIGHTS])
    folder = pulled(fake_hub, pinned)
    assert (folder / WEIGHTS).read_bytes() == fake_hub.files[WEIGHTS]
    assert fake_hub.ranges == list(range(5 * CHUNK, size, 5 * CHUNK))


def test_a_pull_goes_on_within_a_file_where_an_earlier_one_was_broken_off(hub, fake_hub, pinned):
    fake_hub.stops[WEIGHTS] = 0
    unfinished = part(hub, pinned, fake_hub)
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(fake_hub.files[WEIGHTS][: 3 * CHUNK])
    with pytest.raises(APIConnectionError):
        pulled(fake_hub, pinned)
    assert unfinished.stat().st_size == 3 * CHUNK
    fake_hub.stops.clear()
    fake_hub.ranges.clear()
    folder = pulled(fake_hub, pinned)
    assert (folder / WEIGHTS).read_bytes() == fake_hub.files[WEIGHTS]
    assert fake_hub.ranges == [3 * CHUNK]
    assert not unfinished.parent.exists()


@pytest.mark.parametrize("has_ranges", [False, True])
def test_what_is_no_beginning_of_the_file_does_not_stay(hub, fake_hub, pinned, has_ranges):
    unfinished = part(hub, pinned, fake_hub)
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"x" * CHUNK)
    fake_hub.has_ranges = has_ranges
    if has_ranges:
        with pytest.raises(ModelIntegrityError, match="arrived with other contents"):
            pulled(fake_hub, pinned)
    folder = pulled(fake_hub, pinned)
    assert (folder / WEIGHTS).read_bytes() == fake_hub.files[WEIGHTS]


def test_more_than_the_file_has_is_begun_anew(hub, fake_hub, pinned):
    unfinished = part(hub, pinned, fake_hub)
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"x" * (len(fake_hub.files[WEIGHTS]) + 1))
    pulled(fake_hub, pinned)
    assert fake_hub.ranges == []


def test_a_file_that_is_shorter_than_listed_does_not_stay(hub, fake_hub, pinned):
    fake_hub.sends[WEIGHTS] = fake_hub.files[WEIGHTS][:-10]
    with pytest.raises(ModelIntegrityError, match=f"{WEIGHTS} of .* arrived with other contents"):
        pulled(fake_hub, pinned)
    assert not part(hub, pinned, fake_hub).exists()
    fake_hub.sends.clear()
    pulled(fake_hub, pinned)


def test_a_range_that_the_hub_does_not_have_is_of_another_file(hub, fake_hub, pinned):
    unfinished = part(hub, pinned, fake_hub)
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(fake_hub.files[WEIGHTS][:-5])
    fake_hub.sends[WEIGHTS] = b"short"
    with pytest.raises(APIConnectionError, match="416"):
        pulled(fake_hub, pinned)
    assert not unfinished.exists()


def test_a_file_that_a_thread_of_an_interrupted_pull_still_holds_is_begun_anew(tmp_path):
    with transfer._opened(tmp_path / "x.part") as held:
        held.write(b"late")
        with transfer._opened(tmp_path / "x.part") as own:
            own.write(b"new")
    assert (tmp_path / "x.part").read_bytes() == b"new"


def test_what_another_commit_left_unfinished_goes(hub, fake_hub, pinned):
    blobs = part(hub, pinned, fake_hub).parent
    blobs.mkdir(parents=True)
    (blobs / ("a" * 64 + ".part")).write_bytes(b"half")
    fake_hub.stops[WEIGHTS] = 0
    with pytest.raises(APIConnectionError):
        pulled(fake_hub, pinned)
    assert not [entry for entry in blobs.iterdir() if entry.name.startswith("aaa")]


def test_a_snapshot_that_lacks_a_file_gets_it_and_keeps_the_others(hub, fake_hub, pinned):
    folder = pulled(fake_hub, pinned)
    (folder / "config.json").unlink()
    (folder / "notes.md").write_text("mine")
    before, inodes = len(fake_hub.fetched()), {f.name: f.lstat().st_ino for f in folder.iterdir()}
    assert pulled(fake_hub, pinned) == folder
    assert fake_hub.fetched()[before:] == []  # the blob is still here
    kept = {f.name: f.lstat().st_ino for f in folder.iterdir() if f.name != "config.json"}
    assert kept == inodes
    check_snapshot(pinned, folder, strict=True)


def test_files_of_the_same_contents_are_fetched_once(hub, fake_hub, pinned):
    fake_hub.files["extra.json"] = fake_hub.files["config.json"]
    folder = pulled(fake_hub, pinned)
    assert (folder / "extra.json").read_bytes() == (folder / "config.json").read_bytes()
    assert len({"extra.json", "config.json"} & set(fake_hub.fetched())) == 1


def test_the_key_does_not_follow_to_where_the_files_are(hub, fake_hub, serve_hub, pinned, tmp_path):
    storage = serve_hub(tmp_path / "none")
    storage.files = fake_hub.files
    fake_hub.elsewhere = storage.url
    pulled(fake_hub, pinned, token="hf_canary")
    assert {key for _, _, key in fake_hub.requests} == {"Bearer hf_canary"}
    assert {key for _, _, key in storage.requests} == {None}
    assert storage.fetched()


@pytest.mark.parametrize("name", ["../../../refs/main", "", "A" * 64, "a" * 63])
def test_what_the_hub_calls_a_hash_must_be_one(hub, fake_hub, pinned, monkeypatch, name):
    monkeypatch.setattr(type(fake_hub), "etag", lambda *_: name)
    with pytest.raises(ModelIntegrityError, match="without a hash"):
        pulled(fake_hub, pinned)
    assert fake_hub.fetched() == []


def test_a_blob_is_called_as_the_hub_calls_it():
    assert HubFile(1, None, "b").blob_name == "b"
    assert HubFile(1, "a", "b").blob_name == "a"


def test_one_bar_tells_of_all_files_and_of_what_was_here(hub, fake_hub, pinned, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, desc, disable, **_):
            self.total, self.desc, self.disable, self.count = total, desc, disable, 0
            bars.append(self)

        def update(self, count):
            self.count += count

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    # Its package has the class under the module's name.
    monkeypatch.setattr(importlib.import_module("huggingface_hub.utils.tqdm"), "tqdm", Bar)
    fake_hub.stops["tokenizer.json"] = 3 * CHUNK
    unfinished = part(hub, pinned, fake_hub)
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(fake_hub.files[WEIGHTS][: 2 * CHUNK])
    folder = pull(pinned, endpoint=fake_hub.url)
    (bar,) = bars
    assert bar.disable is None  # where there is a terminal
    assert bar.desc == pinned.repo
    assert bar.count == bar.total == sum(file.size for file in measured(folder).values())


def test_a_file_that_plain_http_does_not_carry_is_named_with_the_way(
    hub, fake_hub, pinned, monkeypatch
):
    monkeypatch.setattr(fetching, "MAX_HTTP_BYTES", 1_000_000)
    with pytest.raises(ModelNotAvailableError, match=f"hf download {pinned.repo} {WEIGHTS}"):
        pulled(fake_hub, pinned)
    assert fake_hub.fetched() == []


def test_what_was_broken_off_goes_when_the_files_come_from_a_folder(
    hub, fake_hub, pinned, model_folder
):
    unfinished = part(hub, pinned, fake_hub)
    unfinished.parent.mkdir(parents=True)
    unfinished.write_bytes(b"half")
    stage(model_folder, pinned)
    assert not [name for name in entries(hub, pinned) if name.startswith(INCOMING)]
