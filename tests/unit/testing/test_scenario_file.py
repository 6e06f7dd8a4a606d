import pytest

from hybrid_infer.errors import ConfigError
from hybrid_infer.testing import FakeRemote, Match, Reply, load_scenario

WHOLE = r"""
steps:
  - times: 2
    healthy: true
  - match: {method: POST, path: "*/completions", model: "org/*", task: chat, stream: true}
    times: forever
    cut_after_events: 2
    reset: true
  - retry_after: 30
    json: {error: Too many requests}
  - status: 503
    retry_after: 1.5
    text: busy
    headers: {X-One: "1", X-Two: ["2", "3"], X-Four: 4}
  - base64: AP8=
  - json: null
  - raw: "HTTP/1.1 200 OK\r\n\r\n"
    drip: {bytes: 3, interval_seconds: 0.5}
  - events:
      - "[DONE]"
      - {content: Hel}
      - {content: lo, finish_reason: stop}
      - {error: {message: m}, event: error}
      - {json: {a: 1}}
      - {data: x}
      - {raw: ": c\n\n"}
    stall_after_events: 1
  - {disconnect: true}
  - {close: true, stall_after_bytes: 0}
  - {down_seconds: 5}
"""


def written(tmp_path, text):
    path = tmp_path / "scenario.yaml"
    path.write_text(text)
    return path


def test_the_whole_language(tmp_path):
    steps = load_scenario(written(tmp_path, WHOLE)).steps
    assert [step.times for step in steps[:3]] == [2, None, 1]
    assert steps[0].reply == Reply()
    assert steps[1].match == Match("POST", "*/completions", "org/*", "chat", stream=True)
    assert steps[1].reply == Reply(cut_after_events=2, reset=True)
    assert steps[2].reply == Reply(retry_after=30, json={"error": "Too many requests"})
    assert steps[3].reply.header_pairs == [
        ("X-One", "1"),
        ("X-Two", "2"),
        ("X-Two", "3"),
        ("X-Four", "4"),
        ("retry-after", "1.5"),
    ]
    assert (steps[3].reply.status, steps[3].reply.body) == (503, "busy")
    assert steps[4].reply.body == b"\x00\xff"
    assert steps[5].reply == Reply(json=None)
    assert (steps[6].reply.raw, steps[6].reply.drip_bytes) == (b"HTTP/1.1 200 OK\r\n\r\n", 3)
    assert steps[6].reply.drip_seconds == 0.5
    events = steps[7].reply.event_list
    assert [event.data for event in events] == ["[DONE]", None, None, None, None, "x", None]
    assert (events[2].content, events[2].finish_reason) == ("lo", "stop")
    assert (events[3].error, events[3].event) == ({"message": "m"}, "error")
    assert events[6].raw == b": c\n\n"
    assert steps[8].reply == Reply(disconnect=True)
    assert steps[9].reply == Reply(close=True, stall_after_bytes=0)
    assert steps[10].reply == Reply(down_seconds=5.0)


def test_a_file_drives_a_server(tmp_path, monkeypatch):
    path = written(tmp_path, "steps:\n  - status: 500\n  - text: hello\n")
    import httpx2

    with FakeRemote("echo", scenario=path) as remote, httpx2.Client(trust_env=False) as client:
        first, second = client.get(f"{remote.url}/x"), client.get(f"{remote.url}/x")
    assert (first.status_code, second.text) == (500, "hello")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("steps:\n  - status: 500\n    cut_after_byte: 3", 3, "did you mean 'cut_after_bytes'"),
        ("steps:\n  - status: 500\nstep: 1", 3, "unknown key 'step' at the top level"),
        ("steps:\n  - status: yes", 2, r"steps\[0\].status"),
        ("steps:\n  - status: 700", 2, "status"),
        ("steps:\n  - status: 500\n    times: 0", 3, "times"),
        ("steps:\n  - status: 500\n    times: always", 3, "times"),
        ("steps:\n  - match: {task: chats}\n    healthy: true", 2, "task"),
        ("steps:\n  - match: {tasks: chat}\n    healthy: true", 2, "did you mean 'task'"),
        ("steps:\n  - events:\n    - {contents: a}", 3, "did you mean 'content'"),
        ("steps:\n  - events:\n    - {content: a, data: b}", 2, "exactly one"),
        ("steps:\n  - healthy: true\n  - times: 2", 3, "says nothing to do"),
        ("steps:\n  - healthy: true\n    status: 500", 2, "healthy excludes"),
        ("steps:\n  - healthy: false", 2, "healthy"),
        ("steps:\n  - {text: a, base64: AA==}", 2, "text and base64"),
        ("steps:\n  - {text: a, json: 1}", 2, "cannot both"),
        ("steps:\n  - base64: '*'", 2, "valid base64"),
        ("steps:\n  - raw: ü", 2, "ASCII"),
        ("steps:\n  - drip: {bytes: 0, interval_seconds: 1}", 2, "bytes"),
        ("steps:\n  - drip: {bytes: 1}", 2, "interval_seconds"),
        ("steps:\n  - reset: true", 2, "reset needs"),
        ("steps:\n  - headers: {a b: c}", 2, "header"),
        ("steps:\n  - status: 500\n    status: 501", 3, "duplicate"),
        ("steps: []\nsteps: []", 2, "duplicate"),
        ("steps: {}", 1, "list"),
        ("steps:\n\t- a", 2, "tab"),
        ("steps: !!python/object:os.system []", 1, "tags"),
    ],
)
def test_errors_name_the_line(tmp_path, text, line, message):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_scenario(path)
    assert f"{path}:{line}: " in str(caught.value)


def test_every_problem_is_told_once_and_in_order(tmp_path):
    path = written(tmp_path, "steps:\n  - status: a\n    timez: 1\n  - retry_after: []\n")
    with pytest.raises(ConfigError) as caught:
        load_scenario(path)
    lines = [line.removeprefix(f"{path}:")[:1] for line in str(caught.value).splitlines()]
    assert lines == sorted(lines)
    assert {"2", "3", "4"} == set(lines)


def test_missing_steps_and_missing_files(tmp_path):
    with pytest.raises(ConfigError, match="needs 'steps'"):
        load_scenario({})
    with pytest.raises(ConfigError, match="No such file"):
        load_scenario(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="64 KiB"):
        load_scenario(written(tmp_path, "#" * 70_000))
    with pytest.raises(ConfigError):
        load_scenario(tmp_path)


def test_a_mapping_is_the_same(tmp_path):
    assert load_scenario({"steps": [{"status": 500}]}).steps[0].reply == Reply(status=500)
    with pytest.raises(ConfigError, match="scenario: "):
        load_scenario({"steps": [{"status": "500"}]})


def test_values_are_not_repeated_in_errors(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_scenario({"steps": [{"status": "hf_" + "a" * 30}]})
    assert "aaaa" not in str(caught.value)
