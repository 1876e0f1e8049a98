"""`make families`: what a worker does with each family of models, on the real engine, beside transformers and peft.

A small model of random weights stands for its family. The table of the last run is in docs/families.md."""
