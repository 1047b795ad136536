"""The configuration's schema, one file for each part, joined in `config`."""
