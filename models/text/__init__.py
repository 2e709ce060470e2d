"""The frozen text encoder of pretraining, and the contrastive loss that compares volumes with its texts."""
