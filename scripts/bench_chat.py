"""How fast local chat is, beside transformers' own ways of generating with the same weights.

Run it with ``python scripts/bench_chat.py`` (from a bare checkout it installs into .venv first).
Every contender has a process of its own; they take turns, and medians count. It prints a Markdown table,
writes it to docs/benchmarks.md and draws docs/benchmarks-chat.png. With ``--device cuda`` it measures a
seeded model of the shape of Llama-3-8B instead, and prints only.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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
from _peer import Peer, in_turn, serve  # noqa: E402 - behind the above
from _report import Table, machine, weights_folder, write_section  # noqa: E402 - behind the above

FOLDER = "SmolLM2-135M-Instruct"
PROMPT = "Write a long story about a lighthouse keeper and the sea."
NEW_TOKENS = 128
STATIC_BATCH = 8
# What the callers of the mixed load ask for; their starts are spread over the first second.
LENGTHS = (32, 48, 64, 80, 96, 112, 128, 144)
SPREAD_SECONDS = 1.0
PACKAGES = ("torch", "transformers", "tokenizers")

VOCABULARY = 32_000  # of the seeded shapes: real ones would mostly measure the output layer
SHAPE_TOKENS = 16
SHAPE_LAYERS = 2
CALLERS_ON_CUDA = (1, 16, 64)
LAYERS_ON_CUDA = 32
TOKENS_ALONE_ON_CUDA = 64
LLAMA_3_8B, PHI_3_MINI = "Llama-3-8B", "Phi-3-mini"
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    LLAMA_3_8B: (
        "default",
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "rope_theta": 500000.0,
            "max_position_embeddings": 8192,
        },
    ),
    PHI_3_MINI: (
        "small",
        {
            "model_type": "phi3",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "pad_token_id": 0,
        },
    ),
}


def make_shape(name: str, layers: int, folder: Path, device: str = "cpu") -> Path:
    """A snapshot of seeded weights in a real model's shape, with the tiny profile's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from hybrid_infer.registry import load_registry
    from hybrid_infer.snapshots.resolve import find_snapshot

    alias, sizes = SHAPES[name]
    path = folder / name
    shutil.copytree(find_snapshot(load_registry(profile="tiny").resolve("chat", alias)), path)
    (path / "model.safetensors").unlink()
    config = AutoConfig.for_model(
        **sizes,
        num_hidden_layers=layers,
        vocab_size=VOCABULARY,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path)
    return path


class Ours:
    """The chat engine as the library loads it."""

    def __init__(self, path: Path, device: str, dtype: str) -> None:
        from hybrid_infer.datatypes.models import ModelSpec
        from hybrid_infer.datatypes.replies import Provenance
        from hybrid_infer.local.generation.decoders import load_decoder
        from hybrid_infer.local.generation.engine import ChatEngine
        from hybrid_infer.local.generation.prompting import Prompter
        from hybrid_infer.local.generation.scheduling import Limits
        from hybrid_infer.local.placement import Placement

        self._spec = ModelSpec("chat", path.name, path.name, None)
        # No token ends an answer, so that every way of generating makes as many.
        self._engine = ChatEngine(
            load_decoder(path, Placement(device, dtype)),
            Prompter(path, 2048),
            frozenset(),
            Provenance(path.name, None, verified=False, dtype=dtype),
            limits=Limits(rows=max(CALLERS_ON_CUDA)),
        )

    def answer(self, tokens: int) -> None:
        """One greedy answer."""
        from hybrid_infer.datatypes.deadline import Deadline
        from hybrid_infer.datatypes.requests import ChatRequest
        from hybrid_infer.local.generation.job import End

        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        messages = ({"role": "user", "content": PROMPT},)
        request = ChatRequest(self._spec, messages, tokens, temperature=0.0)
        self._engine.submit(request, Deadline(600), arrived.put)
        while not isinstance(item := arrived.get(), End):
            pass
        if item.error is not None:
            raise item.error

    def mixed(self, lengths: Sequence[int], spread: float) -> None:
        """Callers on threads of their own, whose starts are spread over some seconds."""
        pause = threading.Event()

        def ask(number: int, length: int) -> None:
            pause.wait(spread * number / len(lengths))
            self.answer(length)

        threads = [
            threading.Thread(target=ask, args=(number, length))
            for number, length in enumerate(lengths)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def close(self) -> None:
        """End its threads."""
        self._engine.close()


class OursWithoutKernels(Ours):
    """The chat engine as it is on other processors: in torch's operators."""

    def __init__(self, path: Path, device: str, dtype: str) -> None:
        from hybrid_infer.local import native

        native.library = lambda: None  # type: ignore[assignment]  # a stand-in
        super().__init__(path, device, dtype)


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
        self._manager: Any = None

    def prefill(self) -> None:
        """A bare forward pass over the prompt, and its likeliest token."""
        ids = torch.tensor([self._ids], device=self._model.device)
        with torch.inference_mode():
            self._model(input_ids=ids, logits_to_keep=1).logits[0, -1].argmax().item()

    def static(self, rows: int, tokens: int) -> None:
        """A greedy static batch of equal prompts."""
        ids = torch.tensor([self._ids] * rows, device=self._model.device)
        self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
        )

    def continuous(self, lengths: Sequence[int]) -> float:
        """Continuous batching, every request there from the start.

        Returns:
            The seconds from the first request to the last answer. On a CPU the manager is stopped
            between its turns, so that its thread takes no core from others; on a GPU it stays, with
            its cache and the graphs that it has recorded.
        """
        from transformers import ContinuousBatchingConfig, GenerationConfig

        config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        if self._model.device.type == "cpu":
            with self._model.continuous_batching_context_manager(
                generation_config=config, warmup=False
            ) as manager:
                return _answered(manager, self._ids, lengths)
        if self._manager is None:
            self._manager = self._model.init_continuous_batching(
                generation_config=config,
                # The other contender is on this GPU, too.
                continuous_batching_config=ContinuousBatchingConfig(max_memory_percent=0.5),
            )
            self._manager.warmup()
            self._manager.start()
        return _answered(self._manager, self._ids, lengths)

    def close(self) -> None:
        """End its threads."""
        if self._manager is not None:
            self._manager.stop(block=True)


def _answered(manager: Any, ids: list[int], lengths: Sequence[int]) -> float:
    """The seconds that a manager takes for one prompt and answers of these lengths."""
    started = time.perf_counter()
    for length in lengths:
        manager.add_request(ids, max_new_tokens=length)
    left = len(lengths)
    while left:
        result = manager.get_result(timeout=1.0)
        left -= result is not None and result.is_finished()
    return time.perf_counter() - started


CONTENDERS: dict[str, type[Ours | Theirs]] = {
    "ours": Ours,
    "torch": OursWithoutKernels,
    "theirs": Theirs,
}


def answer_commands(contender: str, path: str, device: str, dtype: str) -> None:
    """A contender's process."""
    made = CONTENDERS[contender](Path(path), device, dtype)

    def answer(command: dict[str, Any]) -> dict[str, Any]:
        do: Callable[..., float | None] = getattr(made, command.pop("do"))
        started = time.perf_counter()
        seconds = do(**command)
        return {"seconds": time.perf_counter() - started if seconds is None else seconds}

    serve(answer)
    made.close()


@contextmanager
def peers(names: Sequence[str], path: Path, device: str, dtype: str) -> Iterator[list[Peer]]:
    """Contenders of one model, while they are needed."""
    made = [Peer(__file__, name, str(path), device, dtype) for name in names]
    try:
        yield made
    finally:
        for peer in made:
            peer.stop()


def compare(
    table: Table, what: str, mine: float, theirs: dict[str, float], targets: dict[str, float]
) -> None:
    """Add a row for each peer whose rate is to be reached."""
    for peer, target in targets.items():
        ratio = mine / theirs[peer]
        table.add(
            what,
            f"≥ {target:g} x {peer}",
            f"{mine:.0f} tokens/s beside {theirs[peer]:.0f}, {ratio:.2f} x",
            good=ratio >= target,
        )


def measure(table: Table, path: Path, dtype: str, repeats: int) -> dict[str, float]:
    """The rows of the real model; tokens per second of what the picture shows."""
    with peers(tuple(CONTENDERS), path, "cpu", dtype) as (ours, plain, theirs):
        one = {"tokens": NEW_TOKENS}
        alone = in_turn(
            {
                "generate": partial(theirs.seconds, "static", rows=1, **one),
                "ours": partial(ours.seconds, "answer", **one),
                "torch": partial(plain.seconds, "answer", **one),
                "prefill": partial(theirs.seconds, "prefill"),
                "first": partial(ours.seconds, "answer", tokens=1),
            },
            repeats,
        )
        load: dict[str, Any] = {"lengths": LENGTHS, "spread": SPREAD_SECONDS}
        crowd = {"lengths": LENGTHS * 4, "spread": SPREAD_SECONDS}
        many = in_turn(
            {
                "static": partial(theirs.seconds, "static", rows=STATIC_BATCH, **one),
                "ours": partial(ours.seconds, "mixed", **load),
                "ours, 32": partial(ours.seconds, "mixed", **crowd),
                "torch": partial(plain.seconds, "mixed", **load),
                "torch, 32": partial(plain.seconds, "mixed", **crowd),
            },
            repeats,
        )
        manager = in_turn({"manager": partial(theirs.seconds, "continuous", lengths=LENGTHS)}, 1)
    mixed = sum(LENGTHS)
    rates = {
        "generate, 1 caller": NEW_TOKENS / alone["generate"],
        "hybrid_infer without kernels, 1 caller": NEW_TOKENS / alone["torch"],
        "hybrid_infer, 1 caller": NEW_TOKENS / alone["ours"],
        "generate, static batch of 8": STATIC_BATCH * NEW_TOKENS / many["static"],
        "continuous batching, 8 callers": mixed / manager["manager"],
        "hybrid_infer without kernels, 8 callers": mixed / many["torch"],
        "hybrid_infer, 8 callers": mixed / many["ours"],
        "hybrid_infer without kernels, 32 callers": 4 * mixed / many["torch, 32"],
        "hybrid_infer, 32 callers": 4 * mixed / many["ours, 32"],
    }
    eight = {"generate, static batch of 8": 1.0, "continuous batching, 8 callers": 2.5}
    for name in ("hybrid_infer", "hybrid_infer without kernels"):
        targets: tuple[tuple[str, dict[str, float]], ...] = (
            ("1 caller", {"generate, 1 caller": 1.8}),
            ("8 callers", eight),
            ("32 callers", {f"{name}, 8 callers": 1.0}),
        )
        for callers, wanted in targets:
            what = f"{name}, {callers}"
            compare(table, what, rates[what], rates, wanted)
    ratio = alone["first"] / alone["prefill"]
    table.add(
        "an answer of one token, 1 caller",
        "≤ 1.1 x a bare prefill by transformers",
        f"{1e3 * alone['first']:.0f} ms beside {1e3 * alone['prefill']:.0f} ms, {ratio:.2f} x",
        good=ratio <= 1.1,  # noqa: PLR2004 - the target
    )
    return rates


def measure_shape(table: Table, name: str, repeats: int, folder: Path) -> None:
    """A row for each load on a seeded shape of a few layers."""
    path = make_shape(name, SHAPE_LAYERS, folder)
    with peers(("ours", "theirs"), path, "cpu", "bfloat16") as (ours, theirs):
        tokens = {"tokens": SHAPE_TOKENS}
        lengths = [SHAPE_TOKENS] * STATIC_BATCH
        taken = in_turn(
            {
                "generate": partial(theirs.seconds, "static", rows=1, **tokens),
                "ours": partial(ours.seconds, "answer", **tokens),
                "static": partial(theirs.seconds, "static", rows=STATIC_BATCH, **tokens),
                "ours, 8": partial(ours.seconds, "mixed", lengths=lengths, spread=0),
            },
            repeats,
        )
    rates = {key: SHAPE_TOKENS / seconds for key, seconds in taken.items()}
    what = f"{name} shape, {SHAPE_LAYERS} layers"
    compare(table, f"{what}, 1 caller", rates["ours"], rates, {"generate": 1.8})
    eight = {"static batch of 8": STATIC_BATCH * rates["static"]}
    mine = STATIC_BATCH * rates["ours, 8"]
    compare(table, f"{what}, 8 callers", mine, eight, {"static batch of 8": 1.0})


def measure_on_cuda(table: Table, device: str, repeats: int, folder: Path) -> None:
    """A seeded model of eight billion weights, beside transformers' continuous batching."""
    path = make_shape(LLAMA_3_8B, LAYERS_ON_CUDA, folder, device)
    torch.cuda.empty_cache()
    with peers(("ours", "theirs"), path, device, "bfloat16") as (ours, theirs):
        for callers in CALLERS_ON_CUDA:
            lengths = [LENGTHS[number % len(LENGTHS)] for number in range(callers)]
            if callers == 1:
                lengths = [TOKENS_ALONE_ON_CUDA]
            taken = in_turn(
                {
                    "continuous batching": partial(theirs.seconds, "continuous", lengths=lengths),
                    "ours": partial(ours.seconds, "mixed", lengths=lengths, spread=0),
                },
                repeats,
            )
            rates = {key: sum(lengths) / seconds for key, seconds in taken.items()}
            what = f"{LLAMA_3_8B} shape, {callers} callers"
            compare(table, what, rates["ours"], rates, {"continuous batching": 1.0})


def plot(rates: dict[str, float], file: Path) -> None:
    """Tokens per second of every way."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3.8))
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
    parser.add_argument(
        "--only", choices=("real", "shapes"), help="measure these rows, write nothing"
    )
    parser.add_argument("--serve", nargs=4, metavar=("NAME", "PATH", "DEVICE", "DTYPE"))
    options = parser.parse_args()
    if options.serve:
        answer_commands(*options.serve)
        return
    table, rates = Table(), None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.device != "cpu":
            measure_on_cuda(table, options.device, options.repeats, folder)
        else:
            if options.only != "shapes":
                path = weights_folder(options.weights) / FOLDER
                rates = measure(table, path, options.dtype, options.repeats)
            if options.only != "real":
                for name in SHAPES:
                    measure_shape(table, name, options.repeats, folder)
    report = f"{machine(PACKAGES, options.device)} {options.dtype}, {options.repeats} repeats.\n\n{table.markdown()}"
    print(report)
    if rates is not None and options.only is None:
        write_section("chat", report)
        plot(rates, ROOT / "docs" / "benchmarks-chat.png")


if __name__ == "__main__":
    main()
