"""Bundles in zstd's format: the same archive inside, and nothing that fills a machine."""

import io
import random
import sys

import pytest

from hybrid_infer.errors import InvalidRequestError, ModelIntegrityError
from hybrid_infer.snapshots import compression
from hybrid_infer.snapshots.bundles import create_bundle, inspect_bundle
from hybrid_infer.snapshots.compression import packed_by_name, unpacked
from hybrid_infer.snapshots.installing import install_bundle
from hybrid_infer.snapshots.resolve import find_snapshot
from hybrid_infer.snapshots.staging import stage
from hybrid_infer.snapshots.verification import check_snapshot

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FLIPS = 200


@pytest.fixture
def made(hub, model_folder, pinned, tmp_path):
    """The same models, packed and not."""
    stage(model_folder, pinned)
    plain, packed = tmp_path / "it.bundle", tmp_path / "it.bundle.zst"
    return plain, create_bundle(plain, [pinned]), packed, create_bundle(packed, [pinned])


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "other" / "hub"))
    monkeypatch.setenv("HYBRID_INFER_CACHE_DIR", str(tmp_path / "other" / "own"))
    return tmp_path / "other"


def test_the_archive_inside_is_the_same(made, pinned, tmp_path):
    plain, bundle, packed, other = made
    assert other.sha256 == bundle.sha256
    assert zstd.decompress(packed.read_bytes()) == plain.read_bytes()
    assert packed.stat().st_size < plain.stat().st_size
    assert inspect_bundle(packed).sha256 == bundle.sha256
    again = tmp_path / "again.zst"
    create_bundle(again, [pinned])
    assert again.read_bytes() == packed.read_bytes()


def test_it_is_known_by_its_bytes_and_not_by_its_name(made, elsewhere, pinned, tmp_path):
    packed = made[2].rename(tmp_path / "renamed")
    install_bundle(packed)
    check_snapshot(pinned, find_snapshot(pinned), strict=True)


def test_every_flipped_bit_is_noticed_and_nothing_placed(made, elsewhere, capsys):
    content, chance, noticed = made[2].read_bytes(), random.Random(3), 0
    harmless = 0
    for _ in range(FLIPS):
        flipped = bytearray(content)
        flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        made[2].write_bytes(flipped)
        try:
            assert inspect_bundle(made[2]).sha256 == made[1].sha256
            harmless += 1  # bits of the format that change nothing of what is inside
        except ModelIntegrityError:
            noticed += 1
            assert not elsewhere.exists()
    assert noticed + harmless == FLIPS
    assert harmless <= FLIPS * 0.05
    with capsys.disabled():
        print(
            f"bits flipped in a packed bundle: {FLIPS}; {noticed} noticed, {harmless} with the same "
            "archive inside"
        )


@pytest.mark.parametrize("size", [5, 100, 5000, -1, -300])
def test_a_cut_one_is_refused(made, elsewhere, size):
    made[2].write_bytes(made[2].read_bytes()[:size])
    with pytest.raises(ModelIntegrityError, match="cut off"):
        install_bundle(made[2])
    assert not elsewhere.exists()


@pytest.mark.parametrize("more", [b"x", zstd.compress(b"more"), zstd.compress(b"")])
def test_nothing_may_follow(made, elsewhere, more):
    made[2].write_bytes(made[2].read_bytes() + more)
    with pytest.raises(ModelIntegrityError, match="behind the end"):
        install_bundle(made[2])
    assert not elsewhere.exists()


def test_what_unpacks_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(compression, "_SPARE_BYTES", 1000)
    source = unpacked(io.BytesIO(zstd.compress(bytes(2**26))))
    with pytest.raises(ModelIntegrityError, match="more than 64 times its size"):
        all(iter(lambda: source.read(4096), b""))


def test_a_window_that_would_take_much_memory_is_refused():
    wide = {
        zstd.CompressionParameter.window_log: 28,
        zstd.CompressionParameter.content_size_flag: 0,
    }
    packer = zstd.ZstdCompressor(options=wide)
    packed = packer.compress(random.Random(1).randbytes(1000)) + packer.flush()
    with pytest.raises(ModelIntegrityError, match="zstd cannot unpack"):
        unpacked(io.BytesIO(packed)).read(10)


@pytest.mark.parametrize("content", [b"", b"plain text", b"x" * 600, zstd.compress(b"text")])
def test_what_is_no_bundle_is_called_so(tmp_path, content):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(ModelIntegrityError, match="this is no bundle"):
        install_bundle(path)


def test_without_zstd_the_extra_is_named(made, monkeypatch, tmp_path, pinned):
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.delattr("backports.zstd", raising=False)
    with pytest.raises(InvalidRequestError, match=r"hybrid-infer\[zstd\]"):
        inspect_bundle(made[2])
    with pytest.raises(InvalidRequestError, match=r"hybrid-infer\[zstd\]"):
        create_bundle(tmp_path / "new.zst", [pinned])
    assert not [entry for entry in tmp_path.iterdir() if "new.zst" in entry.name]
    inspect_bundle(made[0])


def test_packing_is_by_name(tmp_path):
    for name, is_packed in (("x.zst", True), ("x.tar", False)):
        with (tmp_path / name).open("wb") as file, packed_by_name(tmp_path / name, file) as target:
            target.write(b"content")
        content = (tmp_path / name).read_bytes()
        assert (zstd.decompress(content) if is_packed else content) == b"content"
