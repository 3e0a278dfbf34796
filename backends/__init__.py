"""Act: vLLM, LMCache, the embedding model, the database and the engine on this machine."""
