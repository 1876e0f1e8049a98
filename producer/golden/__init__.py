"""Golden jobs through the queue: recorded from a live fleet, and checked against one. Prints nothing but bars."""
