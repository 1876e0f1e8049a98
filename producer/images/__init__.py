"""Images beside prompts: read as they were given, checked by their headers, and kept in Redis before jobs name them.
No image is decoded here, and nothing is fetched from elsewhere."""
