"""Between the socket and the endpoints: uvicorn, connections, and what surrounds every request."""
