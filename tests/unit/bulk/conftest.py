import json
import random

import pytest

from hybrid_infer import HybridClient
from hybrid_infer.bulk import BulkOptions, embed_to_file, open_source

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "rain",
    "falls",
    "on",
    "hills",
]


def some_texts(count, seed=3):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 30))) for _ in range(count)]


@pytest.fixture
def texts():
    return some_texts(50)


@pytest.fixture
def tiny():
    with HybridClient(profile="tiny", policy="local-only") as client:
        yield client


@pytest.fixture
def jsonl(tmp_path, texts):
    """A file of 50 rows with a column beside the text."""
    path = tmp_path / "in.jsonl"
    lines = (json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts))
    path.write_text("".join(lines))
    return path


@pytest.fixture
def embed_file(tiny, tmp_path):
    """Embeds a file in windows of 8 on the tiny profile."""

    def run(source, output, client=tiny, restart=False, column="text", **options):
        options = BulkOptions(**{"model": "small", "window_texts": 8} | options)
        found = open_source(str(source), column=column)
        return embed_to_file(client, found, tmp_path / output, options, restart=restart)

    return run
