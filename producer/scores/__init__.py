"""How likely given tokens are: rows of ids become jobs, and their scores tensors aligned with the given columns."""
