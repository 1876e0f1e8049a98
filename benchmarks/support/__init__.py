"""What benchmarks share: processes, models, loads, reports, plots. Measures nothing itself."""
