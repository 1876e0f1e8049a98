"""Users of Redis for each role of `rollstream acl`, and a day of all roles under them."""
