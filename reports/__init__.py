"""What people look at; reads outcomes, trains nothing."""
