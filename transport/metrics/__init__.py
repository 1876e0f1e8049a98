"""Answers Prometheus over HTTP, for workers and for the exporter. What is counted, and under which name, is theirs."""
