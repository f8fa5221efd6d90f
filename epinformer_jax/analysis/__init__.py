"""What is read off a trained model: predictions, links, perturbations, motifs, plots, reports."""
