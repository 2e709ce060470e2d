"""Manifests of either stage looked at before a run: every fault of every file, and what may be meant otherwise."""
