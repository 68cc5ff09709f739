"""One config-driven decoder, one idea a file: config, members, sizes, decoder, generation, Hugging Face layouts."""
