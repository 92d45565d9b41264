"""Files: their bytes on the way in and out, sealed in parts. What may be done with them is in gateway.actions.files."""
