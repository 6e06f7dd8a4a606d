"""The interface itself: names, keys and aliases as ``llm-interface`` has them, over one client."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hybrid_infer.adapters.llm_interface.account import Account
from hybrid_infer.adapters.llm_interface.memory import Memory, key_of
from hybrid_infer.adapters.llm_interface.options import (
    InterfaceOptions,
    Message,
    read_embed_options,
    read_message,
    reads_json,
)
from hybrid_infer.adapters.llm_interface.responses import (
    LLMResponse,
    chat_response,
    embeddings_response,
)
from hybrid_infer.client.streams import ChatStream
from hybrid_infer.client.sync import HybridClient
from hybrid_infer.datatypes.deadline import Clock
from hybrid_infer.datatypes.models import Task
from hybrid_infer.errors import HybridInferError, InvalidRequestError
from hybrid_infer.remote.keys import Secret

PROVIDER = "huggingface"  # the first remote, then what the policy says


class Interface:
    """One set of keys, aliases and remembered answers. `LLMInterface` is the usual one.

    Args:
        client: serves every call, with its own key; None: a `HybridClient` with the key that is
            set, or that the environment has.
        clock: a monotonic clock in seconds.
        sleep: waits before a repetition.
    """

    def __init__(
        self,
        client: HybridClient | None = None,
        *,
        clock: Clock = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._account = Account(client)
        self._clock, self._sleep = clock, sleep
        self._aliases: dict[tuple[Task, str], str] = {}
        self._memory = Memory(clock)

    # Keys and aliases ------------------------------------------------------------------------

    def set_api_key(
        self, interface_name: str | Mapping[str, str | None], key: str | None = None
    ) -> bool:
        """Set the key of ``huggingface``; None leaves it to the environment. Always True.

        Raises:
            InvalidRequestError: another provider, or no text.
        """
        keys = interface_name if isinstance(interface_name, Mapping) else {interface_name: key}
        for name, value in keys.items():
            if name != PROVIDER:
                raise InvalidRequestError(
                    f"only {PROVIDER!r} has a key here, not {name!r}; a remote's own is read from "
                    "its key_env in models.yaml",
                    argument="interface_name",
                )
            if value is not None and not isinstance(value, str):
                raise InvalidRequestError("an API key must be a str", argument="key")
            self._account.use_key(None if value is None else Secret(value))
        return True

    def get_all_model_names(self) -> list[str]:
        """The names that `send_message` takes: ``huggingface``, and the configured remotes."""
        return list(dict.fromkeys([PROVIDER, *self._account.client.status()["remotes"]]))

    def get_model_alias(self, interface_name: str, alias: str = "default") -> str:
        """The repository behind a chat alias; what is no alias is a Hub id already."""
        return self._repo(interface_name, "chat", alias)

    def get_embeddings_model_alias(self, interface_name: str, alias: str = "default") -> str:
        """The repository behind an embeddings alias; what is no alias is a Hub id already."""
        return self._repo(interface_name, "embeddings", alias)

    def set_model_alias(self, interface_name: str, alias: str, model: str) -> bool:
        """Let `alias` mean another chat model here. Always True."""
        return self._set_alias(interface_name, "chat", alias, model)

    def set_embeddings_model_alias(self, interface_name: str, alias: str, model: str) -> bool:
        """Let `alias` mean another embeddings model here. Always True."""
        return self._set_alias(interface_name, "embeddings", alias, model)

    def _set_alias(self, interface_name: str, task: Task, alias: str, model: str) -> bool:
        self._route(interface_name)
        self._aliases[task, alias] = model
        return True

    def _repo(self, interface_name: str, task: Task, alias: str) -> str:
        self._route(interface_name)
        name = self._aliases.get((task, alias), alias)
        for row in self._account.client.list_models():
            if row["task"] == task and row["alias"] == name:
                return str(row["repo"])
        return name

    def _route(self, interface_name: str) -> str | None:
        """The ``route=`` of a provider's name: none for Hugging Face, which the policy decides."""
        if interface_name == PROVIDER:
            return None
        known = self.get_all_model_names()
        if interface_name not in known:
            raise InvalidRequestError(
                f"interface_name must be one of {', '.join(known)}, not {interface_name!r}",
                argument="interface_name",
            )
        return interface_name

    # The cache -------------------------------------------------------------------------------

    def configure_cache(self, cache_config: Mapping[str, Any] | None = None) -> None:
        """Set up, and empty, what ``cache_timeout_seconds`` remembers in.

        Args:
            cache_config: ``{"cache": "memory-cache", "config": {"max_entries": 100}}``; both may
                be left out.

        Raises:
            InvalidRequestError: another kind of cache, or an impossible size.
        """
        self._memory.configure({} if cache_config is None else cache_config)

    def flush_cache(self) -> None:
        """Forget every remembered answer."""
        self._memory.flush()

    # Calls -----------------------------------------------------------------------------------

    def send_message(
        self,
        interface_name: str | Sequence[str],
        message: Message,
        options: Mapping[str, Any] | None = None,
        interface_options: Mapping[str, Any] | float | None = None,
    ) -> Any:
        """Answer a message.

        Args:
            interface_name: ``"huggingface"``, or a remote's name from models.yaml; or a pair of
                name and key, which sets the key.
            message: a text, messages in OpenAI's shape, or a mapping with ``messages``, whose
                other fields are options.
            options: ``model`` (an alias or Hub id) and the options of
                `HybridClient.chat_completion`. ``response_format="json_object"`` has the answer
                read as JSON; ``stream=True`` is `stream_message`.
            interface_options: see `InterfaceOptions`.

        Returns:
            An `LLMResponse`; for a stream, a `ChatStream`.

        Raises:
            InvalidRequestError: an argument is wrong.
            HybridInferError: no target could serve the call.
        """
        route = self._route(self._named(interface_name))
        how = InterfaceOptions.of(interface_options)
        messages, asked = read_message(message, options)
        model = asked.get("model", "default")
        asked["model"] = self._aliases.get(("chat", model), model)
        if route is not None:
            asked["route"] = route
        wants_json = reads_json(asked)
        if asked.get("response_format") == "json_object":
            self._ask_for_json(asked)
        if asked.get("stream"):
            return self._account.client.chat_completion(messages, **asked)
        return self._remembered(
            ["chat", messages, asked, wants_json, how.attempt_json_repair],
            how,
            lambda: self._account.client.chat_completion(messages, **asked),
            lambda answer: chat_response(answer, how, wants_json=wants_json),
        )

    def stream_message(
        self,
        interface_name: str | Sequence[str],
        message: Message,
        options: Mapping[str, Any] | None = None,
    ) -> ChatStream:
        """Answer a message in chunks of OpenAI's shape; arguments as for `send_message`."""
        stream: ChatStream = self.send_message(
            interface_name, message, {**(options or {}), "stream": True}
        )
        return stream

    def embeddings(
        self,
        interface_name: str | Sequence[str],
        text: str | Sequence[str],
        options: Mapping[str, Any] | None = None,
        interface_options: Mapping[str, Any] | float | None = None,
    ) -> LLMResponse:
        """Embed a text, or several.

        Args:
            interface_name: as for `send_message`.
            text: one text, or several.
            options: ``model`` (an alias or Hub id) and the options of `HybridClient.embed`.
            interface_options: see `InterfaceOptions`.

        Raises:
            InvalidRequestError: an argument is wrong.
            HybridInferError: no target could serve the call.
        """
        route = self._route(self._named(interface_name))
        how, asked = InterfaceOptions.of(interface_options), read_embed_options(options)
        model = asked.get("model", "default")
        asked["model"] = self._aliases.get(("embeddings", model), model)
        if route is not None:
            asked["route"] = route
        is_one = isinstance(text, str)
        return self._remembered(
            ["embeddings", text, asked],
            how,
            lambda: self._account.client.embed(text, **asked),
            lambda result: embeddings_response(result, is_one=is_one),
        )

    def _named(self, interface_name: str | Sequence[str]) -> str:
        if isinstance(interface_name, str):
            return interface_name
        if len(interface_name) != 2:  # noqa: PLR2004 - name and key
            raise InvalidRequestError(
                "interface_name must be a name, or a pair of name and key",
                argument="interface_name",
            )
        name, key = interface_name
        self.set_api_key(name, key)
        return name

    def _ask_for_json(self, asked: dict[str, Any]) -> None:
        """Use JSON mode, unless that would keep the local copy from serving the call."""
        for row in self._account.client.list_models():
            is_asked = row["task"] == "chat" and asked["model"] in (row["alias"], row["repo"])
            if is_asked and "response_format" not in row["local_options"]:
                del asked["response_format"]
                return
        asked["response_format"] = {"type": "json_object"}

    def _remembered(
        self,
        question: list[Any],
        how: InterfaceOptions,
        ask: Callable[[], Any],
        read: Callable[[Any], LLMResponse],
    ) -> LLMResponse:
        started_at = self._clock()
        key = key_of(question) if how.cache_timeout_seconds > 0 else None
        response = None if key is None else self._memory.recall(key)
        if response is None:
            result, retries, request_seconds = self._tried(ask, how)
            response = replace(
                read(result), retries=retries, request_time=1000 * request_seconds,
                original_response=result,
            )  # fmt: skip
            if key is not None and response.success:
                self._memory.keep(key, response, how.cache_timeout_seconds)
        if not how.include_original_response:
            response = replace(response, original_response=None)
        return replace(response, total_time=1000 * (self._clock() - started_at))

    def _tried(self, ask: Callable[[], Any], how: InterfaceOptions) -> tuple[Any, int, float]:
        """The first result of at most `retry_attempts` tries, which ask the very same."""
        retries = 0
        while True:
            started_at = self._clock()
            try:
                return ask(), retries, self._clock() - started_at
            except HybridInferError as error:
                if not error.retryable or retries + 1 >= how.retry_attempts:
                    raise
                wait = error.retry_after
                self._sleep(how.retry_multiplier * 2.0**retries if wait is None else wait)
            retries += 1

    def close(self) -> None:
        """Release connections and local models, unless the client was given; later calls start anew."""
        self._account.close()
