"""HTTP with deadlines, retries and one throttle for the whole mount."""
