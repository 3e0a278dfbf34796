"""LMCache: one host's KV server, over HTTP, beside its disk tier's files and its events. Only here is it "L1" and "L2".

`keys.py` says how a chunk is named, `server.py` asks and steers, `disk.py` looks at the files, `sealed.py` at what is in
them, `events.py` hears what the server stores and drops. What was found out about it stands in `docs/engine.md`.
"""

from backends.lmcache.events import CacheEventReceiver
from backends.lmcache.keys import kv_bytes_a_token
from backends.lmcache.server import LMCacheServer

__all__ = ["CacheEventReceiver", "LMCacheServer", "kv_bytes_a_token"]
