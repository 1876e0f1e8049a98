"""vLLM behind our `Engine`, and what runs inside its processes. The only room that imports vLLM."""
