"""One file per distance or transferability score."""
