"""Local embeddings."""
