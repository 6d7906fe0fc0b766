"""Clustering that minimises what layers put out, from a few thousand unlabelled inputs."""
