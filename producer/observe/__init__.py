"""Shows how a fleet is doing: one reading of Redis for the live page, `rollstream top` and the exporter. It changes
nothing but through `operations`, and imports no worker."""
