"""How a producer talks to Redis: what is sent again, shared or refused for its size. Knows no batch and no policy."""
