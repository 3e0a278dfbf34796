"""The database: documents, versions and keys, kept in SQLite or PostgreSQL through one code path.

`sql_store.py` says what is stored, `database.py` how a call becomes one durable transaction.
"""
