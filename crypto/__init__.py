"""Every secret operation: passwords, tokens, sealing. The only folder that imports cryptography, nacl or jwt."""
