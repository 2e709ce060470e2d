"""The one DeepSpeed training loop that all training scripts share."""
