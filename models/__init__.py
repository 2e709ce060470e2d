"""Networks: encoders, mask decoder, projector, language-model wrapper, losses and checkpoints."""
