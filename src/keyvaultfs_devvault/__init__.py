"""An embedded Key Vault and token endpoint on loopback."""
