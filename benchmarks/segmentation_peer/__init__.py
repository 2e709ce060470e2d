"""A segmentation network of others, trained and scored from the same manifests as ours."""
