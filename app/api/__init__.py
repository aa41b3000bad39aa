"""The endpoints: what is sent to each, and what it answers."""
