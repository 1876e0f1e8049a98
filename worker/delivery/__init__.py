"""Who may answer a job, and how an answer leaves: leases, budgets, fenced scripts. Generates nothing."""
