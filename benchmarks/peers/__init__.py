"""This project beside others, each measured in one run: nnU-Net, MONAI's encoders, transformers' own search."""
