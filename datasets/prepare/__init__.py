"""Commands that turn data sets into manifests."""
