"""The engine on this machine: its environments, its model folder, its processes.

Knows how to install, start, watch and stop vLLM and LMCache; never how to talk to them (`backends/vllm.py` and
`backends/lmcache.py` do). Start with `stack.py`; `environments.py` is what `make setup` runs.
"""
