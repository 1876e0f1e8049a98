"""The one way in which an announced policy version becomes the one to serve, for producers and workers. No weights."""
