"""Containers and manifests of Kubernetes on this machine, without a cluster."""
