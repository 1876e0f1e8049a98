"""Whether vLLM can tell which experts its tokens go to, asked before its start and proven after it. Imports no vLLM.

What becomes of the answer for a job never enters.
"""
