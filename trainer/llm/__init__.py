"""Language models behind one port: providers, batches, recorded completions, costs, prompts."""
