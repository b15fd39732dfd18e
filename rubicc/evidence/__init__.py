"""Proof that an artefact is what it says: decisions, manifest, reports, staged writes."""
