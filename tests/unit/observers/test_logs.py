import logging

import pytest

from hybrid_infer import RemoteServerError, StreamInterruptedError
from hybrid_infer.observers.logs import LOGGER_NAME, LogObserver
from hybrid_infer.testing import Reply


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.DEBUG, logger=LOGGER_NAME)

    def at(level):
        return [r.getMessage() for r in caplog.records if r.levelno == level]

    yield at
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "private" not in told
    assert "secret" not in told


def test_a_fallback_is_one_line(watched, limited, prompt, lines):
    with watched(LogObserver()) as client:
        client.embed(prompt, model="small")
    expected = "embeddings/small served by local instead of huggingface: rate_limited"
    assert [line for line in lines(logging.INFO) if "instead of" in line] == [expected]
    (closed,) = lines(logging.WARNING)
    assert closed.startswith("huggingface is not asked for embeddings/small for ")
    (served,) = lines(logging.DEBUG)
    assert served.startswith("embeddings/small served from local (rate_limited) in ")


def test_what_a_remote_says_is_not_repeated(watched, fake, prompt, lines, caplog):
    message = f"you sent: {prompt}, with hf_very_secret"
    fake.enqueue(Reply(status=500, json={"error": message}), times=3)
    client = watched(LogObserver(), policy="remote-only")
    with client, pytest.raises(RemoteServerError):
        client.chat_completion(prompt, model="small", max_tokens=4)
    assert lines(logging.WARNING)[-1].startswith("chat/small failed: RemoteServerError after 3 tri")
    assert len([line for line in lines(logging.INFO) if "again after server_error" in line]) == 2


def test_a_broken_stream_is_a_warning(watched, broken_stream, prompt, lines):
    client = watched(LogObserver())
    with client, pytest.raises(StreamInterruptedError):
        list(
            client.chat_completion(
                prompt, model="small", max_tokens=8, stream=True, on_stream_error="raise"
            )
        )
    assert lines(logging.WARNING) == ["a stream of chat/small broke: StreamInterruptedError"]


def test_streams_that_end_and_that_are_left(watched, prompt, lines):
    with watched(LogObserver()) as client:
        list(client.chat_completion(prompt, model="small", max_tokens=4, stream=True))
        client.chat_completion(prompt, model="small", max_tokens=8, stream=True).close()
    ends = [line for line in lines(logging.DEBUG) if line.startswith("a stream of")]
    assert [" ended after " in ends[0], " was left by its reader after " in ends[1]] == [True] * 2


def test_coming_back_is_told(watched, fake, prompt, lines):
    fake.go_down()
    with watched(LogObserver()) as client:
        client.warm("embeddings/small")
        client.embed(prompt, model="small")
        fake.come_back()
        client.reset()
        client.embed(prompt, model="small")
    assert "huggingface serves embeddings/small again" in lines(logging.INFO)  # a load may end, too


def test_its_logger_can_be_chosen(watched, limited, prompt, caplog):
    caplog.set_level(logging.INFO, logger="mine")
    with watched(LogObserver(logging.getLogger("mine"))) as client:
        client.embed(prompt, model="small")
    assert {r.name for r in caplog.records if "instead of" in r.getMessage()} == {"mine"}
