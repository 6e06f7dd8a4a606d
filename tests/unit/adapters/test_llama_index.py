"""The adapter in LlamaIndex's own hands."""

import asyncio

import numpy as np
import pytest
from llama_index.core.schema import TextNode

from hybrid_infer.adapters.llama_index import HybridInferEmbedding

TEXTS = ["a first text", "and a second one", "a third"]


@pytest.fixture
def expected(client):
    return client.embed(TEXTS, "small").vectors


def test_many_texts_are_one_request(client, fake, expected):
    model = HybridInferEmbedding("small", client=client)
    sent = len(fake.ledger)
    np.testing.assert_allclose(model.get_text_embedding_batch(TEXTS), expected, atol=1e-6)
    assert len(fake.ledger) == sent + 1


def test_single_texts_and_queries(client, expected):
    model = HybridInferEmbedding("small", client=client)
    np.testing.assert_allclose(model.get_text_embedding(TEXTS[0]), expected[0], atol=1e-6)
    np.testing.assert_allclose(model.get_query_embedding(TEXTS[0]), expected[0], atol=1e-6)
    assert model.similarity(expected[0], expected[0]) == pytest.approx(1, abs=1e-6)


def test_awaited(client, asynchronously, expected):
    async def ask(model):
        many = await model.aget_text_embedding_batch(TEXTS)
        return [*many, await model.aget_query_embedding(TEXTS[0])]

    async def use(async_client):
        return await ask(HybridInferEmbedding("small", async_client=async_client))

    vectors = asynchronously(use)
    np.testing.assert_allclose(vectors, [*expected, expected[0]], atol=1e-6)
    blocking = HybridInferEmbedding("small", client=client)
    np.testing.assert_allclose(asyncio.run(ask(blocking)), vectors, atol=1e-6)


def test_nodes_of_a_pipeline(client, expected):
    model = HybridInferEmbedding("small", client=client, embed_batch_size=2)
    nodes = model([TextNode(text=text) for text in TEXTS])
    np.testing.assert_allclose([node.embedding for node in nodes], expected, atol=1e-6)


def test_what_is_stored_names_the_model_and_no_client(client):
    model = HybridInferEmbedding("small", client=client)
    stored = model.to_dict()
    assert (stored["class_name"], stored["model_name"]) == ("HybridInferEmbedding", "small")
    assert "client" not in str(stored)
