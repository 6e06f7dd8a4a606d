"""``hybrid-infer chat``: one answer to a prompt, or a conversation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hybrid_infer.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hybrid_infer import HybridClient
    from hybrid_infer.datatypes.route import Route


class Stopped(KeyboardInterrupt):
    """Ctrl-C during an answer; carries the text printed so far, and its route."""

    def __init__(self, text: str, route: Route | None) -> None:
        super().__init__()
        self.text = text
        self.route = route


def chat(
    prompt: Annotated[
        str | None,
        typer.Argument(help="The question; '-' reads it from stdin. Without one: a conversation."),
    ] = None,
    model: options.ModelOption = "default",
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="New tokens at most.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus mass in (0, 1].")] = None,
    seed: Annotated[int | None, typer.Option(help="For reproducible sampling.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="A string that ends the answer; repeatable.")
    ] = None,
    no_stream: Annotated[
        bool, typer.Option("--no-stream", help="Print the answer when it is complete.")
    ] = False,
    quiet: options.QuietOption = False,
    as_json: options.JsonOption = False,
    policy: options.PolicyOption = None,
    route: options.RouteOption = None,
    deadline: options.DeadlineOption = None,
    profile: options.ProfileOption = None,
    models: options.ModelsOption = None,
    base_url: options.BaseUrlOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DtypeOption = "auto",
    strict: options.StrictOption = False,
) -> None:
    """Ask a model once, or talk with it."""
    question = _read_prompt(prompt)
    if question is None and as_json:
        raise output.UsageFault("--json needs a prompt: a conversation is for people")
    sampling: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": stop or None,
        "route": route,
    }
    with options.open_client(
        policy=policy,
        profile=profile,
        models=models,
        base_url=base_url,
        deadline=deadline,
        device=device,
        dtype=dtype,
        strict=strict,
    ) as client:
        if question is None:
            from hybrid_infer.cli.conversation import Conversation

            Conversation(client, sampling, system=system, quiet=quiet).run()
            return
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": question})
        _answer(
            client,
            messages,
            sampling,
            stream=not (no_stream or as_json),
            as_json=as_json,
            quiet=quiet,
        )


def _read_prompt(prompt: str | None) -> str | None:
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        try:
            piped = sys.stdin.read().strip("\n")
        except UnicodeDecodeError as error:
            raise output.UsageFault(f"the prompt on stdin is not {error.encoding} text") from error
        if not piped:
            raise output.UsageFault("the prompt on stdin is empty")
        return piped
    return prompt


def _answer(
    client: HybridClient,
    messages: Sequence[dict[str, str]],
    sampling: dict[str, Any],
    *,
    stream: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    if stream:
        route = stream_answer(client, messages, sampling)[1]
    else:
        completion = client.chat_completion(messages, **sampling)
        route = completion.route
        choice = completion.choices[0]
        if as_json:
            output.print_json(
                {
                    "content": choice.message.content,
                    "finish_reason": choice.finish_reason,
                    "model": completion.model,
                    "usage": completion.usage,
                    "route": route,
                }
            )
            return
        print(choice.message.content or "", flush=True)
    if route is not None and not quiet:
        output.terminal().print(output.route_line(route), style="dim")


def stream_answer(
    client: HybridClient, messages: Sequence[dict[str, str]], sampling: dict[str, Any]
) -> tuple[str, Route | None]:
    """Print an answer while it arrives.

    Returns:
        Its text, and the route of its last chunk.

    Raises:
        Stopped: Ctrl-C; the stream is closed, on the server too.
        HybridInferError: the call failed, or the stream broke.
    """
    pieces: list[str] = []
    route: Route | None = None
    with client.chat_completion(messages, stream=True, **sampling) as chunks:
        try:
            for chunk in chunks:
                route = chunk.route
                for choice in chunk.choices:
                    piece = choice.delta.content or ""
                    pieces.append(piece)
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            raise Stopped("".join(pieces), route) from None
        finally:
            print(flush=True)
    return "".join(pieces), route
