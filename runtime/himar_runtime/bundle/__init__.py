"""Opens bundles: manifest, schema, hashes."""
