"""The zoo: published genomic networks as plain torch modules."""
