import socket

from hybrid_infer.cli import network


def test_a_listener_is_reachable_and_a_closed_port_is_not():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (open_port,) = network.reach_all([f"http://127.0.0.1:{port}/path"])
    (closed_port,) = network.reach_all([f"http://127.0.0.1:{port}"])
    assert open_port.reachable
    assert not closed_port.reachable
    assert "refused" in closed_port.detail.lower()


def test_a_look_up_that_hangs_does_not_hold_the_doctor(monkeypatch):
    import threading

    release = threading.Event()
    monkeypatch.setattr(network, "_reach", lambda _url, _seconds: release.wait(60))
    (late,) = network.reach_all(["http://example.invalid"], seconds=0.05)
    release.set()
    assert not late.reachable
    assert "0.05 s" in late.detail
