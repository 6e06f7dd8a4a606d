"""sentence-transformers: a program of its documentation, with one import changed."""

from hybrid_infer import HybridClient

# from sentence_transformers import SentenceTransformer
from hybrid_infer.adapters.sentence_transformer import SentenceTransformer

TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]

with HybridClient() as client:
    model = SentenceTransformer("small", client=client)
    embeddings = model.encode(TEXTS)
    print(embeddings.shape)
    print(model.similarity(embeddings, embeddings))
    print("served by", model.route.provider or "this machine")
