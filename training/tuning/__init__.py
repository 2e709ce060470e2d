"""Instruction tuning: what train_CTInstruct.py sets, its recipe for phantoms, and the model that a run starts from."""
