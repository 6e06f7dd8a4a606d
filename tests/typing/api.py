"""A typed example of the public API; mypy --strict checks it, nothing runs it."""

from collections.abc import AsyncIterable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from hybrid_infer import (
    AsyncHybridClient,
    ChatChunk,
    ChatCompletion,
    Embeddings,
    HybridClient,
    HybridInferError,
    ParityReport,
    Reason,
    Route,
    Settings,
)


def embed(texts: list[str]) -> NDArray[np.float32]:
    with HybridClient(profile="tiny", settings=Settings()) as client:
        result: Embeddings = client.embed(texts, model="small")
        tokens: int | None = result.usage.prompt_tokens
        print(tokens, result.space == result.space)
        return result.vectors


def embed_all(texts: Iterable[str]) -> Iterator[NDArray[np.float32]]:
    with HybridClient(profile="tiny") as client:
        for result in client.embed_stream(texts, model="small"):
            yield result.vectors


async def embed_all_async(texts: AsyncIterable[str]) -> list[Embeddings]:
    async with AsyncHybridClient(profile="tiny") as client:
        return [result async for result in client.embed_stream(texts, model="small")]


def chat(prompt: str) -> str | None:
    client = HybridClient(policy="local-first")
    try:
        answer: ChatCompletion = client.chat_completion(prompt, max_tokens=5)
    except HybridInferError as error:
        print(error.attempts, error.retry_after)
        return None
    route: Route = answer.route
    if route.reason is Reason.RATE_LIMITED:
        print(route.detail)
    return answer.choices[0].message.content


def stream(prompt: str) -> str:
    text = ""
    with HybridClient().chat_completion(prompt, stream=True) as chunks:
        for chunk in chunks:
            part: ChatChunk = chunk
            text += part.choices[0].delta.content or ""
    return text


async def stream_async(prompt: str) -> str:
    text = ""
    async with AsyncHybridClient() as client:
        async with await client.chat_completion(prompt, stream=True) as chunks:
            async for chunk in chunks:
                text += chunk.choices[0].delta.content or ""
        similar: list[float] = await client.sentence_similarity("a", ["b"])
    return f"{text} {similar}"


async def verify(name: str) -> float | None:
    report: ParityReport = HybridClient().verify(name)
    again: ParityReport = await AsyncHybridClient().verify(name)
    return report.cos_min if report and again.ok else None
