"""How far a trainer's samples may lag behind its policy: the gate that admits them. Knows neither Redis nor a batch."""
