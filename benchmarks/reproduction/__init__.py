"""The way from downloads to the paper's tables, as one plan: at full size to be read, as a rehearsal to be run."""
