import gc
import socket
import threading

import httpx2
import pytest

from hybrid_infer.errors import ConfigError, EngineClosedError, InvalidRequestError
from hybrid_infer.testing import FakeRemote, Match, Reply, Scenario, Step
from hybrid_infer.testing.service import reserved

LONG = 20.0


def fake_threads():
    return [one for one in threading.enumerate() if one.name.startswith("fake-remote")]


def test_a_connection_is_reused(fake, client):
    for _ in range(3):
        assert client.send("GET", "/health").status == 200
    assert len({one.connection_id for one in fake.ledger}) == 1


def test_the_ledger_tells_what_was_received(fake, client):
    body = {"model": "m", "messages": [{"role": "user", "content": "hé"}], "stream": True}
    response = client.post("/v1/chat/completions?x=1", body, {"Authorization": "Bearer hf_secret"})
    (request,) = fake.wait_for(1, finished=True)
    assert (request.method, request.path, request.query) == ("POST", "/v1/chat/completions", "x=1")
    assert request.body_json == body
    assert (request.task, request.model, request.stream) == ("chat", "m", True)
    assert request.headers["AUTHORIZATION"] == "Bearer hf_secret"
    assert (request.answered, request.finished) == (200, True)
    assert request.bytes_sent > len(response.data)
    assert "hf_secret" not in repr(request)
    assert "hf_secret" not in f"{request.headers}"
    with pytest.raises(AttributeError):
        request.path = "/other"


def test_an_answer_in_two_pieces_is_not_held_back():
    """Nagle's algorithm would wait for the first piece's acknowledgement, 40 ms."""
    with reserved(0) as bound:
        assert bound.proto == socket.IPPROTO_TCP, "else asyncio leaves the algorithm on"


def test_the_ledger_is_a_copy(fake, client):
    client.send("GET", "/health")
    fake.ledger.clear()
    assert len(fake.ledger) == 1


def test_wait_for_wakes_when_the_request_comes(fake, client):
    seen = []
    waiter = threading.Thread(target=lambda: seen.extend(fake.wait_for(2, LONG)))
    waiter.start()
    client.send("GET", "/health")
    client.send("GET", "/info")
    waiter.join(LONG)
    assert [one.path for one in seen] == ["/health", "/info"]


def test_wait_for_says_how_many_came(fake, client):
    client.send("GET", "/health")
    with pytest.raises(TimeoutError, match="1 of 2 requests arrived"):
        fake.wait_for(2, timeout=0.0)


def test_take_finished_empties_the_ledger(fake, client):
    client.send("GET", "/health")
    assert [one.path for one in fake.take_finished(LONG)] == ["/health"]
    assert fake.ledger == []
    assert fake.take_finished(0.0) == []


def test_steps_are_used_in_order_and_by_match(fake, client):
    fake.enqueue(Reply(status=500), match=Match(task="embeddings"))
    fake.enqueue(Reply(status=429), times=2, match=Match(stream=False))
    fake.enqueue(Reply(status=503))
    assert client.chat().status == 429
    assert client.chat(stream=True).status == 503
    assert client.chat().status == 429
    assert client.chat().status == 200
    assert client.post("/embed", {"inputs": "a"}).status == 500
    assert client.post("/embed", {"inputs": "a"}).status == 200


def test_a_step_for_ever(fake, client):
    fake.enqueue(Reply(status=500), times=None)
    assert [client.chat().status for _ in range(4)] == [500] * 4
    fake.reset()
    assert client.chat().status == 200


def test_respond_with(fake, client):
    fake.respond_with(lambda r: Reply(status=402) if r.model == "dear" else None)
    assert client.chat(model="dear").status == 402
    assert client.chat().status == 200
    fake.enqueue(Reply(status=500))
    assert client.chat(model="dear").status == 500
    fake.respond_with(None)
    assert client.chat(model="dear").status == 200


@pytest.mark.parametrize("result", ["a Reply, honestly", SystemExit(), StopIteration()])
def test_a_broken_responder_is_a_500(fake, client, result):
    def broken(request):
        if isinstance(result, BaseException):
            raise result
        return result

    fake.respond_with(broken)
    assert client.chat().status == 500
    fake.respond_with(None)
    assert client.chat().status == 200


def test_down_refuses_and_back_is_on_the_same_port(fake, connect):
    idle = connect()
    idle.get()
    fake.wait_for(1, finished=True)
    port = fake.port
    fake.go_down()
    fake.go_down()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), LONG)
    assert idle.read_all().endswith(b"content-length: 0\r\n\r\n")
    fake.come_back()
    fake.come_back()
    again = connect()
    again.get()
    assert again.read(12) == b"HTTP/1.1 200"
    assert fake.port == port


def test_going_down_cuts_what_is_stalled(fake, connect):
    fake.enqueue(Reply(stall_after_bytes=4))
    raw = connect()
    raw.get()
    assert raw.read(4) == b"HTTP"
    fake.go_down()
    assert raw.read_all() == b""
    (request,) = fake.wait_for(1, finished=True)
    assert request.bytes_sent == 4


def test_reset_comes_back(fake, client):
    fake.go_down()
    fake.reset()
    assert client.send("GET", "/health").status == 200


def test_a_step_takes_the_remote_down_for_a_while(fake, connect):
    fake.enqueue(Reply(down_seconds=3600.0))
    raw = connect()
    raw.get()
    assert raw.read_all() == b""
    fake.wait_for(1, finished=True)
    fake.come_back()
    again = connect()
    again.get()
    assert again.read(12) == b"HTTP/1.1 200"


def test_a_remote_comes_back_by_itself(fake, connect):
    fake.enqueue(Reply(down_seconds=0.0))
    raw = connect()
    raw.get()
    assert raw.read_all() == b""
    retry = httpx2.HTTPTransport(retries=10)
    with httpx2.Client(transport=retry, trust_env=False) as client:
        assert client.get(f"{fake.url}/health").status_code == 200


def test_release_before_the_stall_is_not_lost(fake, connect):
    entered, go = threading.Event(), threading.Event()

    def responder(request):
        entered.set()
        go.wait(LONG)
        return Reply(stall_after_bytes=0)

    fake.respond_with(responder)
    raw = connect()
    raw.get()
    assert entered.wait(LONG)
    fake.release()
    go.set()
    assert raw.read(12) == b"HTTP/1.1 200"


def test_an_api_key_is_asked_for():
    with FakeRemote("echo", api_key="hf_right") as remote, httpx2.Client(trust_env=False) as client:
        url = f"{remote.url}/v1/models"
        assert client.get(url).status_code == 401
        wrong = client.get(url, headers={"authorization": "Bearer hf_wrong"})
        assert wrong.status_code == 401
        assert wrong.json()["error"]
        right = client.get(url, headers={"authorization": "Bearer hf_right"})
        assert right.status_code == 200
        assert client.get(f"{remote.url}/health").status_code == 200
        remote.enqueue(Reply(status=503))
        assert client.get(url).status_code == 503
        assert "hf_right" not in repr(remote)


def test_a_scenario_to_begin_with():
    scenario = Scenario((Step(Reply(status=500), times=2),))
    with FakeRemote("echo", scenario=scenario) as remote, httpx2.Client(trust_env=False) as client:
        codes = [client.get(f"{remote.url}/health").status_code for _ in range(3)]
    assert codes == [500, 500, 200]


def test_closing_ends_everything(recwarn):
    before = len(fake_threads())
    remote = FakeRemote("echo").start()
    with socket.create_connection(("127.0.0.1", remote.port), LONG) as idle:
        remote.enqueue(Reply(stall_after_bytes=3))
        with socket.create_connection(("127.0.0.1", remote.port), LONG) as stalled:
            stalled.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert stalled.recv(3) == b"HTT"
            remote.close()
            remote.close()
            assert stalled.recv(1) == b""
        assert idle.recv(1) == b""
    assert len(fake_threads()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", remote.port), LONG)
    del remote
    gc.collect()
    assert not recwarn.list


def test_many_lives_leave_nothing():
    before = len(fake_threads())
    for _ in range(20):
        with FakeRemote("echo") as remote, httpx2.Client(trust_env=False) as client:
            assert client.post(f"{remote.url}/embed", json={"inputs": "a"}).status_code == 200
    assert len(fake_threads()) == before


def test_a_closed_one_says_so():
    remote = FakeRemote("echo")
    with remote:
        pass
    for use in (remote.go_down, remote.come_back, remote.reset, remote.release, remote.start):
        with pytest.raises(EngineClosedError):
            use()


def test_answers_that_are_computing_do_not_keep_it_open():
    entered, go = threading.Event(), threading.Event()

    class Slow:
        def embed(self, model, texts, *, normalize, truncate):
            entered.set()
            go.wait(LONG)
            raise ValueError("too late to matter")

        def chat(self, model, body):
            raise NotImplementedError

    before = len(fake_threads())
    remote = FakeRemote(Slow()).start()
    with socket.create_connection(("127.0.0.1", remote.port), LONG) as client:
        client.sendall(b'POST /embed HTTP/1.1\r\ncontent-length: 14\r\n\r\n{"inputs":"a"}')
        assert entered.wait(LONG)
        remote.go_down()
        assert client.recv(1) == b""
        go.set()
        remote.close()
    assert len(fake_threads()) == before


def test_only_loopback_is_bound(fake):
    assert fake.url == f"http://127.0.0.1:{fake.port}"
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", fake.port), LONG):  # noqa: PT011 - which error it is, is the system's business
        pass


def test_a_taken_port_is_a_config_error(fake):
    with pytest.raises(ConfigError, match=f"port {fake.port} of 127.0.0.1"):
        FakeRemote("echo", port=fake.port).start()
    with pytest.raises(ConfigError, match="65535"):
        FakeRemote("echo", port=70000).start()


def test_unknown_answers_are_an_error():
    with pytest.raises(InvalidRequestError, match="tiny"):
        FakeRemote("tinny")


def test_many_clients_at_once(fake):
    codes = []

    def work(number):
        with httpx2.Client(trust_env=False) as client:
            for index in range(10):
                reply = client.post(f"{fake.url}/embed", json={"inputs": f"{number}-{index}"})
                codes.append(reply.status_code)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert codes == [200] * 80
    texts = {one.body_json["inputs"] for one in fake.wait_for(80)}
    assert len(texts) == 80


def test_answers_are_not_held_back():
    """Without TCP_NODELAY, which asyncio sets only so, a reply waits 40 ms for the peer's ACK."""
    with reserved(0) as bound:
        assert bound.proto == socket.IPPROTO_TCP
