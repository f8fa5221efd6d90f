"""Parts of the genome simulator: map, motifs, sequence, rule, reads, contacts and tables."""
