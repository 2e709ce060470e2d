"""Embeddings of many CTs in one file, and how well a linear probe reads labels from them."""
