"""Runs that were cut short, and what may go on with them."""

import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from hybrid_infer import HybridClient
from hybrid_infer.bulk import BulkOptions, embed_to_file, job, open_source
from hybrid_infer.errors import BulkDataError, CheckpointError
from hybrid_infer.registry import load_registry
from hybrid_infer.snapshots import tiny_models
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.tiny import write_tiny


class Stopped(Exception):
    pass


def stop_after(monkeypatch, windows):
    """Let a run end with an error once so many windows are counted."""
    original = job.Checkpoint.add

    def add(self, entry, parts):
        if len(self.windows) == windows:
            raise Stopped
        original(self, entry, parts)

    monkeypatch.setattr(job.Checkpoint, "add", add)


@pytest.mark.parametrize("suffix", ["npy", "jsonl", "parquet"])
def test_a_run_that_was_cut_short_goes_on_to_the_same_bytes(
    embed_file, jsonl, tmp_path, monkeypatch, suffix
):
    embed_file(jsonl, f"whole.{suffix}")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            embed_file(jsonl, f"out.{suffix}")
    assert not (tmp_path / f"out.{suffix}").exists()
    journal = tmp_path / f".out.{suffix}.parts" / "journal.jsonl"
    with journal.open("ab") as stream:
        stream.write(b'{"read": 8, "ro')  # as a kill in the middle of a line leaves it
    summary = embed_file(jsonl, f"out.{suffix}")
    assert (summary.resumed_windows, summary.texts) == (3, 50)
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    assert (tmp_path / f"out.{suffix}").read_bytes() == whole


def test_another_input_or_other_options_are_refused(embed_file, jsonl, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            embed_file(jsonl, "out.npy")
    with pytest.raises(CheckpointError, match="different options; --restart"):
        embed_file(jsonl, "out.npy", normalize=False)
    with pytest.raises(CheckpointError, match="different options and model; --restart"):
        embed_file(jsonl, "out.npy", model="default")
    with jsonl.open("a") as stream:
        stream.write('{"text": "one more"}\n')
    with pytest.raises(CheckpointError, match="different input; --restart"):
        embed_file(jsonl, "out.npy")
    assert embed_file(jsonl, "out.npy", restart=True).resumed_windows == 0
    assert np.load(tmp_path / "out.npy").shape == (51, 384)


def test_another_dtype_is_refused(embed_file, jsonl, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            embed_file(jsonl, "out.npy")
    with HybridClient(profile="tiny", policy="local-only", dtype="float16") as other:
        if other.embed("x", "small").route.dtype == "float32":
            pytest.skip("computed in float32 whatever is asked")
        with pytest.raises(CheckpointError, match="different dtype"):
            embed_file(jsonl, "out.npy", client=other)


def embedded_from(stream, output, client):
    source = open_source("-", stream=stream)
    return embed_to_file(client, source, output, BulkOptions(model="small", window_texts=8))


def test_a_stream_does_not_throw_away_what_is_done_of_a_file(
    embed_file, tiny, jsonl, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            embed_file(jsonl, "out.npy")
    with pytest.raises(CheckpointError, match="different input and options; --restart"):
        embedded_from(io.BytesIO(b"a text\n"), tmp_path / "out.npy", tiny)
    assert embed_file(jsonl, "out.npy").resumed_windows == 3


@pytest.mark.parametrize("by", ["a stream", "a file"])
def test_nobody_goes_on_with_a_stream_that_is_gone(
    embed_file, tiny, jsonl, tmp_path, monkeypatch, by
):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        patch.setattr(job.Checkpoint, "remove", lambda _: None)  # as if it was killed
        with pytest.raises(Stopped):
            embedded_from(io.BytesIO(b"a text\n" * 50), tmp_path / "out.npy", tiny)
    assert (tmp_path / ".out.npy.parts" / "journal.jsonl").read_bytes().count(b"\n") == 2
    if by == "a file":
        assert embed_file(jsonl, "out.npy").resumed_windows == 0
    else:
        summary = embedded_from(io.BytesIO(b"another\n"), tmp_path / "out.npy", tiny)
        assert (summary.resumed_windows, summary.texts) == (0, 1)


def test_the_same_name_with_other_weights_does_not_go_on(jsonl, tmp_path, monkeypatch):
    """An alias without a pin: its repository's main has moved between two runs."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    models = {"embeddings": {"mine": {"repo": "org/model"}}}
    spec = load_registry(models).resolve("embeddings", "mine")
    folder = tmp_path / "model"
    write_tiny(
        tiny_models.bert(load_registry(profile="tiny").resolve("embeddings", "small")), folder
    )
    stage(folder, spec)
    source, options = open_source(str(jsonl)), BulkOptions(model="mine", window_texts=8)

    def run():
        with HybridClient(models=models, policy="local-only") as client:
            return embed_to_file(client, source, tmp_path / "out.npy", options)

    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Stopped):
            run()
    (folder / "generation_config.json").write_text("{}")  # another file, another revision
    stage(folder, spec)
    with pytest.raises(CheckpointError, match=r"begun with different revision: [0-9a-f]{40}, not"):
        run()
    (folder / "generation_config.json").unlink()
    stage(folder, spec)
    assert run().resumed_windows == 3
    assert np.load(tmp_path / "out.npy").shape == (50, 384)


@pytest.mark.parametrize("left_by", ["another input", "a kill"])
def test_what_no_run_counts_is_never_looked_at(embed_file, tmp_path, monkeypatch, left_by):
    """Parts that lie beside the journal: of a run that was thrown away, or torn."""

    def rows(name, values):
        lines = (json.dumps({"id": value, "text": f"text {value}"}) + "\n" for value in values)
        (tmp_path / name).write_text("".join(lines))
        return tmp_path / name

    numbers = rows("numbers.jsonl", [1, 2, 1.5, 2.5])
    begun = numbers if left_by == "a kill" else rows("names.jsonl", ["s0", "s1", "s2", "s3"])
    with monkeypatch.context() as patch:
        stop_after(patch, 1)  # the second part is written, and not counted
        with pytest.raises(Stopped):
            embed_file(begun, "out.parquet", window_texts=2)
    torn = tmp_path / ".out.parquet.parts" / "00000001.arrow"
    if left_by == "a kill":
        torn.write_bytes(torn.read_bytes()[:300])
    embed_file(numbers, "out.parquet", window_texts=2, restart=left_by == "another input")
    found = pq.read_table(tmp_path / "out.parquet")["id"].to_pylist()
    assert found == [1.0, 2.0, 1.5, 2.5]


def test_a_journal_that_a_full_disk_cut_short_is_let_go_of(tmp_path):
    checkpoint = job.Checkpoint(tmp_path / "out.npy", {}, restart=False)

    class Full(io.BytesIO):
        def close(self):
            super().close()
            raise OSError(28, "No space left on device")

    checkpoint._journal.close()
    checkpoint._journal = Full()
    checkpoint.close()
    assert checkpoint._journal.closed


def test_a_full_disk_is_said(embed_file, jsonl, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job.Checkpoint, "add", full)
    with pytest.raises(BulkDataError, match=r"cannot write .*out\.npy: No space left"):
        embed_file(jsonl, "out.npy")
    shutil.rmtree(tmp_path / ".out.npy.parts", ignore_errors=True)
