"""Chat models in GGUF files, computed by llama.cpp (extra ``gguf``)."""
