"""`make test-vllm`: the tests of the real engine with other versions of vLLM, each in an environment of its own.

What it finds out stands in docs/vllm-versions.md. The versions that a worker takes are
`worker.engines.vllm_versions.RAN`.
"""
