"""What a user writes about a mount: options and a TOML file -> checked values."""
