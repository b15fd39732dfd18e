"""Files that become part of the artefact."""
