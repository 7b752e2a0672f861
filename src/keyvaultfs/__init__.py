"""Azure Key Vault as a file system."""
