"""What is known beforehand: the Cell Ontology, gene sets, pathway footprints and perturbations."""
