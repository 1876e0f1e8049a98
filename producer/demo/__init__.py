"""The whole system on one machine, and the small servers and models that tests use too. No trainer imports it."""
