"""The command line: options, tables, exit codes. The library never imports it."""
