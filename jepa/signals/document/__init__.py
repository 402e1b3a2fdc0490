"""The signals document: objects, schema, invariants, hash chain, taxonomy."""
