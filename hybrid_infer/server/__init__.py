"""An HTTP server around one client: OpenAI's, Hugging Face's and TEI's paths (extra ``server``)."""
