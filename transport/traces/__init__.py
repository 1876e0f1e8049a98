"""Spans for producers and workers through OpenTelemetry, which no other room imports, and this one only where asked."""
