"""One file per place cells run."""
