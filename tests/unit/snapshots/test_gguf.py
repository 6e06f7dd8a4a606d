"""GGUF files: what their header says, where they are found, how they are fetched."""

import dataclasses
import struct

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from hybrid_infer.datatypes.models import GgufFile, ModelSpec
from hybrid_infer.errors import (
    APIConnectionError,
    ConfigError,
    InvalidRequestError,
    ModelIntegrityError,
    ModelNotAvailableError,
    ModelNotDownloadedError,
)
from hybrid_infer.snapshots.download import pull
from hybrid_infer.snapshots.facts import check_assertions
from hybrid_infer.snapshots.gguf_files import find_gguf, gguf_facts, gguf_revision
from hybrid_infer.snapshots.gguf_header import gguf_header

REVISION = "8b3219a92973c328a8e22fadcfa821b5dc75636a"
SPEC = ModelSpec("chat", "mine", "org/model", None, gguf=GgufFile("q4.gguf", "org/model", REVISION))


def write(path, quantized=None, split_count=None):
    """A file with a little of everything that a header may hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, "llama")
    if split_count is not None:
        writer.add_uint16("split.count", split_count)
    writer.add_context_length(512)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_bool("a.flag", val=True)
    writer.add_float64("a.number", 0.5)
    writer.add_token_list(["a", "é", "漢字"])
    writer.add_array("a.numbers", [1, 2, 3])
    writer.add_array("a.nested", [[1, 2], [3]])
    writer.add_string("after.arrays", "still read")
    writer.add_tensor("norm", np.ones(64, np.float32))
    writer.add_tensor("half", np.ones((8, 32), np.float16))
    if quantized is not None:
        data = np.zeros((64, 20), np.uint8)  # 32 values in 20 bytes
        writer.add_tensor("small", data, raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_header_is_read(tmp_path):
    header = gguf_header(write(tmp_path / "x.gguf"))
    assert header.metadata["after.arrays"] == "still read"
    assert (header.metadata["a.flag"], header.metadata["a.number"]) == (True, 0.5)
    assert header.type_bytes == {"F32": 256, "F16": 512}
    facts = gguf_facts(tmp_path / "x.gguf")
    assert (facts.model_type, facts.context_length) == ("llama", 512)
    assert (facts.weight_bytes, facts.weight_dtype) == (768, "F16")
    assert facts.quantization is None
    assert facts.sizes.cache_values == 2 * 2 * 2 * 16


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_part_of_a_split_file_is_refused(tmp_path, count):
    path = write(tmp_path / "x.gguf", split_count=count)
    if count < 2:
        gguf_header(path)
        return
    with pytest.raises(ModelIntegrityError, match="one of several parts"):
        gguf_facts(path)


def test_quantised_weights_need_the_aliass_word(tmp_path):
    facts = gguf_facts(write(tmp_path / "x.gguf", GGMLQuantizationType.Q4_1))
    assert (facts.quantization, facts.weight_dtype) == ("Q4_1", "Q4_1")
    with pytest.raises(ConfigError, match=r"Q4_1.*allow_quantized: true"):
        check_assertions(SPEC, facts)
    check_assertions(dataclasses.replace(SPEC, allow_quantized=True), facts)
    check_assertions(SPEC, gguf_facts(write(tmp_path / "y.gguf")))


def test_a_window_that_disagrees_is_refused(tmp_path):
    spec = dataclasses.replace(SPEC, context_length=1024)
    with pytest.raises(ModelIntegrityError, match=r"1024.*512"):
        check_assertions(spec, gguf_facts(write(tmp_path / "x.gguf")))


def test_a_file_that_changes_is_read_again(tmp_path):
    path = write(tmp_path / "x.gguf")
    assert gguf_facts(path).quantization is None
    write(path, GGMLQuantizationType.Q4_1)
    assert gguf_facts(path).quantization == "Q4_1"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a GGUF file .*empty"),
        (b"<html>proxy error</html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
        (b"GGUF" + struct.pack("<I", 1), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ2sI", 3, 0, 1, 2, b"ab", 99), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ2sIIQ", 3, 0, 1, 2, b"ab", 9, 8, 2**60), "damaged"),
        (b"GGUF" + struct.pack("<IQQQ2sIIQ", 3, 0, 2, 2, b"ab", 9, 4, 2**60), "damaged"),
        (
            b"GGUF"
            + struct.pack("<IQQQ2sI", 3, 0, 1, 2, b"ab", 9)
            + struct.pack("<IQ", 9, 1) * 5000,
            "damaged",
        ),
    ],
)
def test_what_is_no_whole_file_is_refused(tmp_path, content, words):
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelIntegrityError, match=words):
        gguf_header(path)


def test_every_cut_of_a_file_is_refused(tmp_path):
    whole = write(tmp_path / "x.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(0, len(whole) - 512, 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelIntegrityError):
            gguf_header(cut)


def test_a_path_is_found_or_named(tmp_path):
    path = write(tmp_path / "x.gguf")
    spec = dataclasses.replace(SPEC, gguf=GgufFile(str(path)))
    assert find_gguf(spec, spec.gguf) == path
    assert pull(spec) == path
    assert gguf_revision(spec.gguf) is None
    path.unlink()
    with pytest.raises(ModelNotDownloadedError, match=r"x\.gguf"):
        find_gguf(spec, spec.gguf)
    with pytest.raises(ModelNotDownloadedError, match=r"x\.gguf"):
        pull(spec)
    with pytest.raises(InvalidRequestError, match="GGUF"):
        pull(spec, source=tmp_path)


@pytest.fixture
def gguf_hub(hub, fake_hub, tmp_path):
    fake_hub.files["q4.gguf"] = write(tmp_path / "made.gguf").read_bytes()
    fake_hub.files["q8.gguf"] = b"GGUF of another size"
    return fake_hub


def test_pull_fetches_exactly_the_file(gguf_hub):
    with pytest.raises(ModelNotDownloadedError, match="hybrid-infer pull chat/mine"):
        find_gguf(SPEC, SPEC.gguf)
    path = pull(SPEC, endpoint=gguf_hub.url, progress=False)
    assert path == find_gguf(SPEC, SPEC.gguf)
    assert gguf_hub.fetched() == ["q4.gguf"]
    assert gguf_revision(SPEC.gguf) == REVISION
    pull(SPEC, endpoint=gguf_hub.url, progress=False)
    assert gguf_hub.fetched() == ["q4.gguf"]


def test_another_repository_is_asked_for_its_file(gguf_hub):
    spec = dataclasses.replace(SPEC, gguf=GgufFile("q4.gguf", "other/weights-GGUF", None))
    path = pull(spec, endpoint=gguf_hub.url, progress=False)
    assert "models--other--weights-GGUF" in str(path)
    assert any("other/weights-GGUF" in request for _, request, _ in gguf_hub.requests)


def test_a_damaged_file_is_fetched_again(gguf_hub):
    path = pull(SPEC, endpoint=gguf_hub.url, progress=False)
    path.resolve().write_bytes(b"<html>proxy error</html>")
    assert pull(SPEC, endpoint=gguf_hub.url, progress=False) == path
    assert gguf_hub.fetched() == ["q4.gguf"] * 2
    gguf_header(path)


def test_offline_a_damaged_file_stays(gguf_hub, monkeypatch):
    path = pull(SPEC, endpoint=gguf_hub.url, progress=False)
    path.resolve().write_bytes(b"damaged")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(APIConnectionError, match="HF_HUB_OFFLINE"):
        pull(SPEC, endpoint=gguf_hub.url, progress=False)
    assert path.read_bytes() == b"damaged"


def test_a_file_that_the_repository_lacks_is_named(gguf_hub):
    spec = dataclasses.replace(SPEC, gguf=GgufFile("q5.gguf", "org/model", REVISION))
    with pytest.raises(ModelNotAvailableError, match=r"org/model has no file q5\.gguf"):
        pull(spec, endpoint=gguf_hub.url, progress=False)


def test_a_file_that_is_no_gguf_is_refused(gguf_hub):
    spec = dataclasses.replace(SPEC, gguf=GgufFile("q8.gguf", "org/model", REVISION))
    with pytest.raises(ModelIntegrityError):
        pull(spec, endpoint=gguf_hub.url, progress=False)


def test_a_link_out_of_the_cache_is_refused(hub, tmp_path):
    outside = write(tmp_path / "x.gguf")
    folder = hub / "models--org--model" / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (folder / "q4.gguf").symlink_to(outside)
    with pytest.raises(ModelIntegrityError, match="outside"):
        find_gguf(SPEC, SPEC.gguf)
