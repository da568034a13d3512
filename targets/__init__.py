"""One file per medical task; every target can serve as a source too."""
