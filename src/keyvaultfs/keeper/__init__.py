"""The process that holds the mount while workers come and go."""
