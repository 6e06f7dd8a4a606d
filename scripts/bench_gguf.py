"""How fast chat from a GGUF file is, beside llama-cpp-python called directly on the same file.

Run it with ``python scripts/bench_gguf.py`` where the extra ``gguf`` is installed (``./scripts/test
--gguf`` installs it). Each side has a process of its own, with the same threads; they take turns, and
medians count. It prints a Markdown table; docs/gguf.md has the last one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))
from _peer import Peer, serve  # noqa: E402 - behind the above
from _report import Table, machine, weights_folder  # noqa: E402 - as above

FILE = Path("SmolLM2-135M-Instruct-GGUF") / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = (
    "Write a long story about a lighthouse keeper and the sea.",
    "Explain photosynthesis.",
    "Why is the sky blue?",
)
NEW_TOKENS = 128
CALLERS = 8
THREADS = 2
TARGET = 0.95


class Ours:
    """The client, as a user has it."""

    def __init__(self, file: str) -> None:
        import torch

        from hybrid_infer import HybridClient

        torch.set_num_threads(THREADS)
        entry = {"repo": "org/model", "gguf": file, "allow_quantized": True}
        self._client = HybridClient(models={"chat": {"file": entry}}, policy="local-only")

    def answer(self, prompt: str) -> tuple[str, int]:
        """A greedy answer, and how many tokens it has."""
        made = self._client.chat_completion(
            prompt, model="file", max_tokens=NEW_TOKENS, temperature=0
        )
        return made.choices[0].message.content or "", made.usage.completion_tokens or 0

    def first(self, prompt: str) -> float:
        """Seconds to the first text."""
        started = time.perf_counter()
        options: dict[str, Any] = {"model": "file", "max_tokens": NEW_TOKENS, "temperature": 0}
        with self._client.chat_completion(prompt, stream=True, **options) as stream:
            while not next(stream).choices[0].delta.content:
                pass
            return time.perf_counter() - started


class Theirs:
    """llama-cpp-python's own class."""

    def __init__(self, file: str) -> None:
        import llama_cpp

        low = llama_cpp.llama_cpp
        if b"AMX_INT8 = 1" in low.llama_print_system_info():
            make = low.llama_model_default_params

            def plain() -> Any:
                """Without the kernels that end the process (ggml-org/llama.cpp issue 20824)."""
                parameters = make()
                parameters.use_extra_bufts = False
                return parameters

            low.llama_model_default_params = plain
        self._model: Any = llama_cpp.Llama(
            file, n_ctx=1024, n_threads=THREADS, n_threads_batch=THREADS, verbose=False
        )

    def _begin(self, prompt: str, **options: Any) -> Any:
        self._model.reset()  # else it would reuse the last prompt's keys and values
        return self._model.create_chat_completion(
            [{"role": "user", "content": prompt}],
            temperature=0,
            top_k=1,
            repeat_penalty=1.0,
            max_tokens=NEW_TOKENS,
            **options,
        )

    def answer(self, prompt: str) -> tuple[str, int]:
        """A greedy answer, and how many tokens it has."""
        made = self._begin(prompt)
        return made["choices"][0]["message"]["content"], made["usage"]["completion_tokens"]

    def first(self, prompt: str) -> float:
        """Seconds to the first text."""
        started = time.perf_counter()
        for chunk in self._begin(prompt, stream=True):
            if chunk["choices"][0]["delta"].get("content"):
                return time.perf_counter() - started
        return time.perf_counter() - started


def serve_one(name: str, file: str) -> None:
    """Answer the commands of the other process."""
    side = {"ours": Ours, "theirs": Theirs}[name](file)

    def together() -> int:
        counts: list[int] = []

        def ask(number: int) -> None:
            counts.append(side.answer(PROMPTS[number % len(PROMPTS)])[1])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)

    def command(asked: dict[str, Any]) -> dict[str, Any]:
        started = time.perf_counter()
        if asked["do"] == "first":
            return {"seconds": side.first(asked["prompt"])}
        if asked["do"] == "together":
            return {"tokens": together(), "seconds": time.perf_counter() - started}
        text, tokens = side.answer(asked["prompt"])
        return {"text": text, "tokens": tokens, "seconds": time.perf_counter() - started}

    serve(command)


def measure(table: Table, ours: Peer, theirs: Peer, repeats: int) -> None:
    """All rows."""
    rates: dict[Peer, list[float]] = {ours: [], theirs: []}
    firsts: dict[Peer, list[float]] = {ours: [], theirs: []}
    is_same = True
    for turn in range(repeats + 1):
        for prompt in PROMPTS:
            answers = {side: side.ask("answer", prompt=prompt) for side in (ours, theirs)}
            is_same &= answers[ours]["text"] == answers[theirs]["text"]
            for side, answer in answers.items():
                first = side.ask("first", prompt=prompt)["seconds"]
                if turn:  # the first warms up
                    rates[side].append(answer["tokens"] / answer["seconds"])
                    firsts[side].append(first)
    mine, peer = (statistics.median(rates[side]) for side in (ours, theirs))
    table.add(
        f"one caller, greedy, {NEW_TOKENS} tokens",
        f"≥ {TARGET} x llama-cpp-python directly",
        f"{mine:.1f} tokens/s beside {peer:.1f}, {mine / peer:.2f} x",
        good=mine >= TARGET * peer,
    )
    table.add("greedy text", "the same", "the same" if is_same else "another", good=is_same)
    mine, peer = (1e3 * statistics.median(firsts[side]) for side in (ours, theirs))
    table.add("time to the first text", "", f"{mine:.0f} ms beside {peer:.0f} ms")
    together = [ours.ask("together") for _ in range(repeats)]
    mine = statistics.median(answer["tokens"] / answer["seconds"] for answer in together)
    table.add(
        f"{CALLERS} callers at once", "", f"{mine:.0f} tokens/s in sum; it takes one at a time"
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", help="folder of the real weights")
    parser.add_argument("--serve", nargs=2, metavar=("NAME", "FILE"))
    options = parser.parse_args()
    if options.serve:
        serve_one(*options.serve)
        return
    file = str(weights_folder(options.weights) / FILE)
    ours, theirs = (Peer(__file__, name, file) for name in ("ours", "theirs"))
    table = Table()
    measure(table, ours, theirs, options.repeats)
    ours.stop()
    theirs.stop()
    packages = ("llama-cpp-python", "torch")
    print(
        f"\n{machine(packages)} {THREADS} threads, {options.repeats} repeats.\n\n{table.markdown()}"
    )


if __name__ == "__main__":
    main()
