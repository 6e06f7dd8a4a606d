import numpy as np
import pytest

from hybrid_infer.cli import output
from hybrid_infer.cli.demo import stage
from hybrid_infer.cli.demo.records import Call, Phase, summarise

pytest.importorskip("matplotlib")

from hybrid_infer.cli.demo.picture import check_writable, draw

PHASES = [Phase(name, i, i + 1.0, 1) for i, name in enumerate(("well", "429", "gone", "back"))]


def some_calls():
    vectors = np.eye(2, 8, dtype=np.float32)
    calls = [
        Call(0, "embed", 0.1, 0.02, "remote", "primary", batch=0, vectors=vectors),
        Call(1, "embed", 1.1, 0.03, "local", "rate_limited", "float32", batch=0, vectors=vectors),
        Call(2, "chat", 2.1, 0.03, None, error="x"),
        Call(3, "embed", 3.1, 0.02, "remote", "primary", batch=0, vectors=vectors),
    ]
    return calls, summarise(calls, PHASES, chat="tiny")


def test_a_readable_png_is_written(tmp_path):
    from PIL import Image

    calls, report = some_calls()
    path = tmp_path / "timeline.png"
    draw(calls, PHASES, report, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width >= 1200
        assert len(image.convert("RGB").getcolors(1_000_000)) > 50


def test_a_folder_that_is_not_there_is_a_usage_fault(tmp_path):
    calls, report = some_calls()
    with pytest.raises(output.UsageFault, match="cannot write"):
        draw(calls, PHASES, report, tmp_path / "nowhere" / "timeline.png")


def test_a_check_leaves_what_is_there(tmp_path):
    path = tmp_path / "timeline.png"
    check_writable(path)
    assert not path.exists()
    path.write_bytes(b"an older picture")
    check_writable(path)
    assert path.read_bytes() == b"an older picture"


def test_a_picture_that_cannot_be_written_is_refused_before_the_demo_plays(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(stage, "check_extra", lambda: None)
    monkeypatch.setattr(stage, "perform", lambda **_: pytest.fail("it played"))
    for path in (tmp_path, tmp_path / "nowhere" / "timeline.png"):
        done = run("demo", "-o", path)
        assert done.code == 2
        assert done.err.startswith(f"error: cannot write {path}")
