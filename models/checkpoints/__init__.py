"""Weights on disk: folders of this project, released files, pretrained encoders."""
