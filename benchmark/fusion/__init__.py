"""One file per way to use the patient's record."""
