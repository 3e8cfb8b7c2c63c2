"""The circuit diagram: what is drawn (`two_hop`, `modular`), where (`layout`), and how values look (`values`)."""
