"""Texts of files that are more than text, read in a process of their own that can do no harm."""
