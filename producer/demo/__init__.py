"""The main job on one machine, and the small servers and models that tests borrow. No trainer imports it."""
