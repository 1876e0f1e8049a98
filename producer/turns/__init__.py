"""What a submit says of the conversations that its prompts are turns of. It reads no results and never asks Redis."""
