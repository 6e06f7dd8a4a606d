"""This library behind the interfaces of others; each module needs only its own extra.

    from hybrid_infer.adapters.langchain import ChatHybridInfer, HybridInferEmbeddings
    from hybrid_infer.adapters.llama_index import HybridInferEmbedding
    from hybrid_infer.adapters.sentence_transformer import SentenceTransformer
    from hybrid_infer.adapters.llm_interface import LLMInterface
    from hybrid_infer.adapters.ray import app, embed_dataset

``hybrid_infer.adapters.llm`` is a plugin, which ``llm`` finds by itself.
"""
