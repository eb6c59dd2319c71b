"""Ways a peer can be wrong, as tables that are tested and printed."""
