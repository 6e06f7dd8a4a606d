"""Every error that leaves this library.

The tree (indentation is inheritance)::

    HybridInferError
      ConfigError                     models.yaml, settings, environment variables, constructor arguments
      InvalidRequestError             the caller's own mistake; never retried, never falls back
        ContextLengthError            the text or prompt does not fit the model's window
      AuthenticationError             401: the API key is missing, wrong or not allowed here
      QuotaExceededError              402: the account's credits are used up
      RateLimitError                  429: too many requests
      ModelNotAvailableError          403 gated, 404, 410, 400 model_not_supported
      ModelLoadingError               503 while the remote loads the model
      RemoteServerError               5xx, 424
        RemoteProtocolError           an answer that breaks the protocol: HTML, wrong shape, NaN, truncated
      APIConnectionError              DNS, refused, TLS, or offline
      APITimeoutError                 one remote attempt took too long
      DeadlineExceededError           the whole call ran out of time
      StreamInterruptedError          a stream ended without a finish_reason; ``partial`` holds its text
      EmbeddingSpaceMismatchError     vectors of another space would have been returned
      ModelNotDownloadedError         no local snapshot, and none may be downloaded now
      UnverifiableError               ``verify`` has nothing to compare a model with
      ModelIntegrityError             a snapshot is damaged or is not the model it claims to be
      InsufficientMemoryError         the local copy does not fit this machine
      OverloadedError                 a queue is full
      BulkDataError                   a file of texts cannot be read, or what is made of it cannot be written
      CheckpointError                 what is done of a file belongs to another input or other options
      MissingExtraError               a package that an extra brings is not installed
      EngineClosedError               the client or its engine was closed
      LocalEngineError                local computation failed
      AllTargetsFailedError           two or more targets were tried and none could serve; ``causes`` holds why
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hybrid_infer.datatypes.route import Attempt


class HybridInferError(Exception):
    """Base of every error raised by this library.

    Attributes:
        attempts: the attempts of the call that ended with this error, oldest first; empty
            when the call failed before any dispatch.
        retry_after: seconds after which the same call may succeed, or None if unknown.
        retryable: whether repeating the same call unchanged can succeed at all.
        status: the HTTP status behind the error, or None if there was none.
    """

    retryable: ClassVar[bool] = False
    status: int | None = None

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.attempts: tuple[Attempt, ...] = ()

    def __reduce__(self) -> tuple[object, ...]:
        # Subclasses take keyword-only arguments, which the default protocol would lose.
        return (_rebuild_error, (type(self), self.message, dict(self.__dict__)))


def _rebuild_error(
    error_type: type[HybridInferError], message: str, state: dict[str, object]
) -> HybridInferError:
    error = error_type.__new__(error_type, message)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class ConfigError(HybridInferError):
    """A configuration value is wrong: models.yaml, settings, an environment variable or a constructor argument."""


class InvalidRequestError(HybridInferError):
    """The call's own arguments are wrong: never retried, and no reason to ask another target.

    What can be told from the arguments alone is refused before anything is asked, with the same
    error whoever would have served; the rest when a remote or a chat template refuses it.

    Attributes:
        argument: the argument at fault, with its index where it has one: ``texts[3]``,
            ``messages[0].role``, ``temperature``; None if a remote refused the request
            without naming one.
    """

    def __init__(self, message: str, *, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


class ContextLengthError(InvalidRequestError):
    """The text or prompt, plus the tokens asked for, does not fit the model's context window.

    Attributes:
        num_tokens: what the window would have to hold at least; None if it was not counted.
    """

    def __init__(
        self, message: str, *, argument: str | None = None, num_tokens: int | None = None
    ) -> None:
        super().__init__(message, argument=argument)
        self.num_tokens = num_tokens

    def suggest(self, name: str, context_length: int) -> None:
        """Add to the message that the window of another model would hold it."""
        self.message = f"{self.message}; {name} has a window of {context_length}"
        self.args = (self.message,)


class AuthenticationError(HybridInferError):
    """The API key is missing, wrong, or may not be used here (HTTP 401)."""


class QuotaExceededError(HybridInferError):
    """The account's credits are used up (HTTP 402)."""


class RateLimitError(HybridInferError):
    """The remote answered 429; ``retry_after`` holds its wait in seconds where it named one."""

    retryable = True


class ModelNotAvailableError(HybridInferError):
    """The remote does not serve this model to this account (403 gated, 404, 410, model_not_supported)."""


class ModelLoadingError(HybridInferError):
    """The remote is still loading the model; ``retry_after`` holds its estimate in seconds."""

    retryable = True


class RemoteServerError(HybridInferError):
    """The remote failed (5xx, 424), or refused a body as too large (413)."""

    retryable = True

    def __init__(
        self, message: str, *, retry_after: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.status = status


class RemoteProtocolError(RemoteServerError):
    """The remote answered something that is not an answer: HTML, wrong shape, NaN, a truncated body."""


class APIConnectionError(HybridInferError):
    """No connection to the remote: DNS, refused, TLS, or an offline switch is set."""

    retryable = True


class APITimeoutError(HybridInferError):
    """One attempt at a remote took longer than it was given.

    Attributes:
        was_sent: whether the time was the remote's; else it was over before a connection was free.
    """

    retryable = True
    was_sent = True


class DeadlineExceededError(HybridInferError):
    """The whole call, every attempt included, did not finish by its deadline."""

    retryable = True


class StreamInterruptedError(HybridInferError):
    """A stream broke after its first chunk.

    Attributes:
        partial: the text received before it broke.
    """

    retryable = True

    def __init__(self, message: str, *, partial: str = "") -> None:
        super().__init__(message)
        self.partial = partial


class EmbeddingSpaceMismatchError(HybridInferError):
    """A backend's vectors belong to another embedding space than the one asked for."""


class ModelNotDownloadedError(HybridInferError):
    """The local copy is not on this machine; the message names the command that fetches it."""


class ModelIntegrityError(HybridInferError):
    """A snapshot is damaged, incomplete, or not the model that its alias describes."""


class UnverifiableError(HybridInferError):
    """``verify`` has nothing to compare: fewer than two of a remote, a local copy and goldens are here."""


class InsufficientMemoryError(HybridInferError):
    """The local copy does not fit this machine's memory."""


class OverloadedError(HybridInferError):
    """A queue is full, or an engine is stuck; ``retry_after`` says when to try again."""

    retryable = True


class BulkDataError(HybridInferError):
    """A file of texts cannot be read, a row of it is bad, or what is made of it cannot be written."""


class CheckpointError(HybridInferError):
    """What is done of a file belongs to another input, model or options, or is being written."""


class MissingExtraError(HybridInferError):
    """A package that an extra of this one brings is not installed; the message has the command."""


class EngineClosedError(HybridInferError):
    """The client, or the engine that was serving the call, is closed."""


class LocalEngineError(HybridInferError):
    """Local computation failed."""


class AllTargetsFailedError(HybridInferError):
    """Two or more targets were tried and none could serve the call.

    Attributes:
        causes: each target's own error, in the order they were tried. ``retry_after`` is the
            earliest of theirs.
    """

    retryable = True

    def __init__(self, message: str, *, causes: Sequence[HybridInferError] = ()) -> None:
        waits = [cause.retry_after for cause in causes if cause.retry_after is not None]
        super().__init__(message, retry_after=min(waits, default=None))
        self.causes = tuple(causes)
