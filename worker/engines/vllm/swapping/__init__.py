"""New weights for an engine that runs: read or received, proven, and served by all its processes or by none. What runs
in vLLM's own processes is `inside`; no module of vLLM is imported here.
"""
