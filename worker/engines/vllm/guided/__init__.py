"""What rules over the text of a completion: guides and the process that tries them, thinking budgets, repetition."""
