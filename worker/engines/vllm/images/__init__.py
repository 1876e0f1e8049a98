"""Images beside prompts as vLLM takes them: a prompt expanded once, and where each image lies in it. Nothing is fetched
or decoded here, and no module of vLLM is imported.
"""
