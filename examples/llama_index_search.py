"""LlamaIndex: embed nodes in one call and find the nearest to a question."""

from llama_index.core.schema import TextNode

from hybrid_infer import HybridClient
from hybrid_infer.adapters.llama_index import HybridInferEmbedding

TEXTS = ["The library closes at eight.", "Dogs must be kept on a lead.", "Tea is served at four."]

with HybridClient() as client:
    model = HybridInferEmbedding("small", client=client)
    nodes = model([TextNode(text=text) for text in TEXTS])
    question = model.get_query_embedding("When does the library close?")
    best = max(nodes, key=lambda node: model.similarity(question, node.embedding))
    print("nearest:", best.text)
