"""What speaks over the network: QuPath's SAM extension's protocol, an interface for programs, a page to try prompts."""
