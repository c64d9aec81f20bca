"""What speaks over the network. Nothing is in here yet."""
