"""Mask decoders of the encoders, and the losses of masks."""
