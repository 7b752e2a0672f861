"""The process that serves the mount."""
