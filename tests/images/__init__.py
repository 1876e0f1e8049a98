"""Images that buildah built, run as a container would run them. `make test-images` builds them first."""
