"""Who may send what: the roles' rights, held against what is really sent."""
