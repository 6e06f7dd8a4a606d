"""llm: the plugin's models, as `llm -m hybrid-infer/small` finds them."""

import llm

model = llm.get_model("hybrid-infer/small")
for piece in model.prompt("Explain low latency in one line.", max_tokens=24):
    print(piece, end="", flush=True)
print()

embedder = llm.get_embedding_model("hybrid-infer/small")
vectors = list(embedder.embed_multi(["a text", "another one"]))
print(len(vectors), "vectors of", len(vectors[0]), "numbers")
