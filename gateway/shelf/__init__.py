"""The catalog of documents and everything that changes it: what there is, and which of it a question is about."""
