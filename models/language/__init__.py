"""Language models: loading, tokens, adapters, and what reads their hidden states."""
