"""What the registry knows about a model and about a remote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Task = Literal["chat", "embeddings"]
Dialect = Literal["hf-router", "openai", "tei"]

_EMBEDDINGS_ONLY: tuple[Dialect, ...] = ("tei",)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What an option left ``None`` means for one chat model, remotely and locally alike.

    Attributes:
        max_tokens: new tokens at most; shrinks to the window that is left.
        temperature: 0 means greedy decoding.
        top_p: nucleus mass in (0, 1]; None leaves it out.
        top_k: candidates kept at each step; None leaves it out.
    """

    max_tokens: int = 1024
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A GGUF file that is the local copy of a chat model.

    Attributes:
        file: an absolute path on this machine; with a `repo`, the path inside the repository.
        repo: the Hub repository that holds it; None: the file is simply on this machine.
        revision: the pinned commit of `repo`, 40 hex digits; None: ``main``.
    """

    file: str
    repo: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """The file as messages name it."""
        return self.file if self.repo is None else f"{self.file} of {self.repo}"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model, as an alias or a Hub id names it.

    Attributes:
        task: ``"chat"`` or ``"embeddings"``.
        alias: the alias without its task prefix; None for a plain Hub id.
        repo: the Hub repository id.
        revision: the pinned commit, 40 hex digits; None when unpinned (``main`` serves).
        context_length: chat: prompt and answer together, in tokens; None if unknown.
        generation: chat: this model's defaults.
        gguf: chat: the file that is the local copy; None: the repository's own snapshot is.
        provider: chat: which of the providers behind Hugging Face's router is to serve it; None
            leaves the choice to the router.
        dim: embeddings: length of a vector; None if unknown before the first one.
        max_seq_length: embeddings: tokens per text, special tokens included; None if unknown.
        pooling: embeddings: ``"mean"``, ``"cls"``, …; None if unknown.
        dense: embeddings: whether a Dense layer follows the pooling; None if unknown.
        prompt: embeddings: text put before every input, ``""`` for none; None: the default
            prompt of the model's own files, where they are on this machine.
        forbidden_dtypes: dtypes that this model must never be computed in.
        allow_quantized: whether a quantised local copy may stand in for the remote one.
        gated: whether the Hub asks for a licence to be accepted.
    """

    task: Task
    alias: str | None
    repo: str
    revision: str | None
    context_length: int | None = None
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    gguf: GgufFile | None = None
    provider: str | None = None
    dim: int | None = None
    max_seq_length: int | None = None
    pooling: str | None = None
    dense: bool | None = None
    prompt: str | None = None
    forbidden_dtypes: tuple[str, ...] = ()
    allow_quantized: bool = False
    gated: bool = False

    @property
    def name(self) -> str:
        """How commands name this model: ``embeddings/small``, or the Hub id."""
        return f"{self.task}/{self.alias}" if self.alias else self.repo


@dataclass(frozen=True, slots=True)
class RemoteSpec:
    """One remote, in the order of ``remotes:``.

    Attributes:
        name: what `Route.provider` and ``route=`` call it.
        dialect: which request and response functions speak to it.
        base_url: scheme, host and optional path, without a trailing slash.
        key_env: environment variable that holds this remote's own API key.
        models: aliases (``chat/small``) or repos served here, mapped to the name that this
            remote knows them by; None: every model, under its repository id (and, on the
            router, its provider).
        requests_per_minute: how fast it may be asked; None: as fast as its own headers allow.
        max_concurrency: requests of this client in flight there at most; None: no limit.
    """

    name: str
    dialect: Dialect
    base_url: str
    key_env: str | None = None
    models: tuple[tuple[str, str], ...] | None = None
    requests_per_minute: float | None = None
    max_concurrency: int | None = None

    def model_id(self, spec: ModelSpec) -> str | None:
        """The name under which this remote serves `spec`, or None if it does not."""
        if spec.task == "chat" and self.dialect in _EMBEDDINGS_ONLY:
            return None
        if self.models is None:
            pins = spec.provider is not None and self.dialect == "hf-router"
            return f"{spec.repo}:{spec.provider}" if pins else spec.repo
        served = dict(self.models)
        return served.get(spec.name) or served.get(spec.repo)
