"""Where patches are centred: a file for each strategy of `sample_patches`."""
