"""Images that `make image` built with buildah or podman, run as a container would run them.

`make test-images` alone runs these tests. Nothing is built here; a test whose image is not there fails.
"""
