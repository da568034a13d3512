"""One file per pretraining set that is only a source."""
