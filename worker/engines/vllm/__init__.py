"""vLLM behind our `Engine`, and our code inside vLLM's processes. The only room that imports vLLM."""
