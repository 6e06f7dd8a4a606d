"""How fast local chat is, beside transformers' own ways of generating with the same weights.

Run it with ``python scripts/bench_chat.py`` (from a bare checkout it installs into .venv first).
Everything runs in one process, in turns, and medians count. It prints a Markdown table, writes it to
docs/benchmarks.md and draws docs/benchmarks-chat.png.
"""

from __future__ import annotations

import argparse
import os
import queue
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
try:
    import torch
except ImportError:
    subprocess.run(["bash", "-c", "source scripts/_venv.sh"], check=True, cwd=ROOT)
    python = str(ROOT / ".venv" / "bin" / "python")
    os.execv(python, [python, *sys.argv])  # noqa: S606 - this script, in the environment just made

sys.path.insert(0, str(Path(__file__).parent))
from _report import Table, machine, weights_folder, write_section  # noqa: E402 - behind the above

FOLDER = "SmolLM2-135M-Instruct"
PROMPT = "Write a long story about a lighthouse keeper and the sea."
NEW_TOKENS = 128
STATIC_BATCH = 8
# What the callers of the mixed load ask for; their starts are spread over the first second.
LENGTHS = (32, 48, 64, 80, 96, 112, 128, 144)
PACKAGES = ("torch", "transformers", "tokenizers")


class Ours:
    """The chat engine as the library loads it."""

    def __init__(self, path: Path, device: str, dtype: str) -> None:
        from hybrid_infer.datatypes.models import ModelSpec
        from hybrid_infer.datatypes.replies import Provenance
        from hybrid_infer.local.generation.decoders import load_decoder
        from hybrid_infer.local.generation.engine import ChatEngine
        from hybrid_infer.local.generation.prompting import Prompter
        from hybrid_infer.local.placement import Placement

        self._spec = ModelSpec("chat", path.name, path.name, None)
        # No token ends an answer, so that every way of generating makes as many.
        self._engine = ChatEngine(
            load_decoder(path, Placement(device, dtype)),
            Prompter(path, 2048),
            frozenset(),
            Provenance(path.name, None, verified=False, dtype=dtype),
        )

    def answer(self, max_tokens: int) -> tuple[float, float]:
        """Seconds to the first text and to the end of one greedy answer."""
        from hybrid_infer.datatypes.deadline import Deadline
        from hybrid_infer.datatypes.requests import ChatRequest
        from hybrid_infer.local.generation.job import End

        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        messages = ({"role": "user", "content": PROMPT},)
        request = ChatRequest(self._spec, messages, max_tokens, temperature=0.0)
        started, first = time.perf_counter(), 0.0
        self._engine.submit(request, Deadline(600), arrived.put)
        while not isinstance(item := arrived.get(), End):
            if not first and item.choices and item.choices[0].delta.content:
                first = time.perf_counter() - started
        if item.error is not None:
            raise item.error
        return first, time.perf_counter() - started

    def close(self) -> None:
        """End its threads."""
        self._engine.close()


def concurrently(answer: Callable[[int], Any], lengths: Sequence[int], spread: float) -> float:
    """Seconds until callers on threads of their own have their answers.

    Args:
        answer: makes one answer of so many tokens.
        lengths: what each asks for.
        spread: seconds over which the callers begin.
    """
    pause = threading.Event()

    def ask(number: int, length: int) -> None:
        pause.wait(spread * number / len(lengths))
        answer(length)

    threads = [
        threading.Thread(target=ask, args=(number, length)) for number, length in enumerate(lengths)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


class Theirs:
    """Transformers on the same weights: generate, and its continuous batching."""

    def __init__(self, path: Path, device: str, dtype: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(path)
        self._ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPT}], add_generation_prompt=True
        )["input_ids"]
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
        self._model = loaded.to(device).eval()

    def prefill(self) -> float:
        """Seconds of a bare forward pass over the prompt."""
        ids = torch.tensor([self._ids], device=self._model.device)
        started = time.perf_counter()
        with torch.inference_mode():
            self._model(input_ids=ids, logits_to_keep=1).logits[0, -1].argmax().item()
        return time.perf_counter() - started

    def generate(self, rows: int, new_tokens: int) -> float:
        """Seconds of a greedy static batch of equal prompts."""
        ids = torch.tensor([self._ids] * rows, device=self._model.device)
        started = time.perf_counter()
        self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=0,
        )
        return time.perf_counter() - started

    def continuous(self, lengths: Sequence[int]) -> float:
        """Seconds of transformers' continuous batching, every request there from the start."""
        from transformers import GenerationConfig

        config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        manager = self._model.init_continuous_batching(generation_config=config)
        manager.start()
        try:
            started = time.perf_counter()
            for length in lengths:
                manager.add_request(self._ids, max_new_tokens=length)
            left = len(lengths)
            while left:
                result = manager.get_result(timeout=1.0)
                left -= result is not None and result.is_finished()
            return time.perf_counter() - started
        finally:
            manager.stop(block=True)


def in_turn(calls: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median seconds of each; they alternate, so that noise hits them alike. One turn warms up."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            seconds = call()
            if turn:
                taken[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def measure(table: Table, ours: Ours, theirs: Theirs, repeats: int) -> dict[str, float]:
    """All rows; tokens per second of what the picture shows."""
    alone = in_turn(
        {
            "generate": lambda: theirs.generate(1, NEW_TOKENS),
            "ours": lambda: ours.answer(NEW_TOKENS)[1],
            "prefill": theirs.prefill,
            "first text": lambda: ours.answer(1)[0],
        },
        repeats,
    )
    mixed = sum(LENGTHS)
    calls: dict[str, Callable[[], float]] = {
        "static": lambda: theirs.generate(STATIC_BATCH, NEW_TOKENS),
        "ours": lambda: concurrently(ours.answer, LENGTHS, 1.0),
        "ours, 32": lambda: concurrently(ours.answer, LENGTHS * 4, 1.0),
        "manager": lambda: theirs.continuous(LENGTHS),
    }
    many = in_turn(calls, repeats)
    rates = {
        "generate, 1 caller": NEW_TOKENS / alone["generate"],
        "hybrid_infer, 1 caller": NEW_TOKENS / alone["ours"],
        "generate, static batch of 8": STATIC_BATCH * NEW_TOKENS / many["static"],
        "continuous batching, 8 callers": mixed / many["manager"],
        "hybrid_infer, 8 callers": mixed / many["ours"],
        "hybrid_infer, 32 callers": 4 * mixed / many["ours, 32"],
    }
    rows = (
        ("generate, 1 caller", "hybrid_infer, 1 caller", 1.8),
        ("generate, static batch of 8", "hybrid_infer, 8 callers", 1.0),
        ("continuous batching, 8 callers", "hybrid_infer, 8 callers", 2.5),
        ("hybrid_infer, 8 callers", "hybrid_infer, 32 callers", 1.0),
    )
    for peer, mine, target in rows:
        ratio = rates[mine] / rates[peer]
        table.add(
            mine,
            f"≥ {target} x {peer}",
            f"{rates[mine]:.0f} tokens/s beside {rates[peer]:.0f}, {ratio:.2f} x",
            good=ratio >= target,
        )
    ratio = alone["first text"] / alone["prefill"]
    table.add(
        "time to the first text, 1 caller",
        "≤ 1.1 x a bare prefill by transformers",
        f"{1e3 * alone['first text']:.0f} ms beside {1e3 * alone['prefill']:.0f} ms, {ratio:.2f} x",
        good=ratio <= 1.1,  # noqa: PLR2004 - the target
    )
    return rates


def plot(rates: dict[str, float], file: Path) -> None:
    """Tokens per second of every way."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3.2))
    colours = ["#d9822b" if name.startswith("hybrid") else "#8a94a6" for name in rates]
    bars = axis.barh(list(rates), list(rates.values()), color=colours)
    axis.bar_label(bars, fmt="%.0f", padding=3)
    axis.invert_yaxis()
    axis.set_xlabel(f"tokens/s, {FOLDER}")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure everything and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", help="folder of the real weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    options = parser.parse_args()
    path, table = weights_folder(options.weights) / FOLDER, Table()
    ours = Ours(path, options.device, options.dtype)
    theirs = Theirs(path, options.device, options.dtype)
    rates = measure(table, ours, theirs, options.repeats)
    ours.close()
    report = (
        f"{machine(PACKAGES)} {options.dtype}, {options.repeats} repeats.\n\n{table.markdown()}"
    )
    print(report)
    if not options.dry:
        write_section("chat", report)
        plot(rates, ROOT / "docs" / "benchmarks-chat.png")


if __name__ == "__main__":
    main()
