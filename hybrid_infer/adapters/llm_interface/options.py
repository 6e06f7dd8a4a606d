"""What a call of the interface is given besides the model's options, and how its message is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hybrid_infer.errors import InvalidRequestError

EMBED_OPTIONS = ("model", "normalize", "truncate", "route", "deadline")

Message = str | Sequence[Mapping[str, Any]] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class InterfaceOptions:
    """How a call is made, beyond what the model is asked.

    Attributes:
        retry_attempts: tries in all, of the whole call with its fallback.
        retry_multiplier: seconds before the first repetition, doubled for each one; a wait that
            the error names counts instead.
        cache_timeout_seconds: how long the answer is remembered; 0: not.
        attempt_json_repair: whether an answer that should be JSON and is not is mended.
        include_original_response: whether the response has the client's own result.
    """

    retry_attempts: int = 1
    retry_multiplier: float = 0.3
    cache_timeout_seconds: float = 0.0
    attempt_json_repair: bool = False
    include_original_response: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any] | float | None) -> InterfaceOptions:
        """Options as a caller writes them; a number alone is `cache_timeout_seconds`.

        Raises:
            InvalidRequestError: there is no such option, or it has an impossible value.
        """
        if given is None:
            return cls()
        named = given if isinstance(given, Mapping) else {"cache_timeout_seconds": given}
        defaults = {field.name: field.default for field in fields(cls)}
        for name, value in named.items():
            _check_option(name, value, defaults)
        return cls(**named)


def _check_option(name: str, value: Any, defaults: Mapping[str, Any]) -> None:
    if name not in defaults:
        raise InvalidRequestError(
            f"unknown interface option {name!r}; known: {', '.join(defaults)}", argument=name
        )
    is_flag = isinstance(defaults[name], bool)
    if is_flag and not isinstance(value, bool):
        raise InvalidRequestError(f"{name} must be True or False, not {value!r}", argument=name)
    if is_flag:
        return
    kind = int if isinstance(defaults[name], int) else (int, float)
    least = defaults[name] if isinstance(defaults[name], int) else 0
    if isinstance(value, bool) or not isinstance(value, kind) or not value >= least:
        raise InvalidRequestError(
            f"{name} must be a number of at least {least}, not {value!r}", argument=name
        )


def read_message(message: Message, options: Mapping[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """What is asked, and its options, in dictionaries of this call's own.

    Raises:
        InvalidRequestError: a mapping without ``messages``, or options with them.
    """
    if "messages" in (options or {}):
        raise InvalidRequestError("messages are no option", argument="messages")
    if not isinstance(message, Mapping):
        return message, dict(options or {})
    if "messages" not in message:
        raise InvalidRequestError("a message object needs 'messages'", argument="messages")
    fields_ = {name: value for name, value in message.items() if name != "messages"}
    return message["messages"], {**fields_, **(options or {})}


def reads_json(asked: Mapping[str, Any]) -> bool:
    """Whether the answer is to be read as JSON."""
    wanted = asked.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else wanted
    return kind in ("json_object", "json_schema")


def read_embed_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of an embeddings call, in a dictionary of its own.

    Raises:
        InvalidRequestError: there is no such option.
    """
    for name in options or {}:
        if name not in EMBED_OPTIONS:
            raise InvalidRequestError(
                f"unknown option {name!r}; known: {', '.join(EMBED_OPTIONS)}", argument=name
            )
    return dict(options or {})
