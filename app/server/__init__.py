"""The process: uvicorn, its connections, its signals, and its end."""
