"""What is learnt: losses, contrastive fine-tuning, heads, calibration, thresholds, and the export that is served."""
