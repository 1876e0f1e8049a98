"""How a producer talks to Redis: which commands are sent again, shared, or refused for their size. Knows no batch."""
