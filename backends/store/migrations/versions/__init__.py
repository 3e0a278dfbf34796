"""The revisions, oldest first by file name. Each is frozen once released."""
