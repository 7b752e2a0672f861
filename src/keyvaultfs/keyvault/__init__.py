"""The Key Vault REST client."""
